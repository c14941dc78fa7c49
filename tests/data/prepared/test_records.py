import time
from concurrent import futures

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer_jax.data.prepared import records

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(cells=st.dictionaries(_TEXT, _TEXT), image=st.binary())
def test_fields_are_kept(cells, image):
    cells.pop("image", None)
    record = records.encode(cells, image)
    assert records.encode(dict(reversed(cells.items())), image) == record
    found = records.decode(record, *cells, "image")
    assert found == [*(text.encode() for text in cells.values()), image]


def test_files_are_read_as_one_sequence(tmp_path):
    parts = []
    for name, count in (("a", 3), ("empty", 0), ("b", 2)):
        wanted = (f"{name}{i}".encode() for i in range(count))
        assert records.write(tmp_path / name, wanted) == count
        parts.append(records.Part(str(tmp_path / name), count))
    source = records.source(parts)
    assert len(source) == 5
    assert [source[i] for i in (4, 0, 3, 2, 1)] == [
        *(b"b1", b"a0", b"b0", b"a2", b"a1")
    ]


def test_a_full_disk_raises_an_os_error(disk):
    with pytest.raises(OSError, match="file"):
        records.write(disk / "file", (bytes(10**5) for _ in range(9)))


def test_a_missing_folder_raises_an_os_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        records.write(tmp_path / "none" / "file", iter([b"x"]))


def test_threads_import_the_message_one_at_a_time(monkeypatch):
    """Concurrent imports of TFDS can wait for each other forever."""
    importing, most = [], []
    message = records._import_example()

    def find():
        importing.append(1)
        most.append(len(importing))
        time.sleep(0.01)
        importing.pop()
        return message

    monkeypatch.setattr(records, "_import_example", find)
    record = records.encode({"text": "a"}, b"image")
    with futures.ThreadPoolExecutor(4) as pool:
        done = pool.map(lambda _: records.decode(record, "text"), range(8))
        assert list(done) == [[b"a"]] * 8
    assert most == [1] * 8
