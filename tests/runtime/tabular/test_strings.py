"""Strings stored in a file behave like a list of strings."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

from mixer_jax.runtime.tabular import strings

NAMES = ["", "a", "größe ✓", "line\nbreak", "a"]


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "a [1]*"
    folder.mkdir()
    strings.write(folder / "names.arrow", NAMES)
    return folder / "names.arrow"


def test_strings_equal_the_list(path, monkeypatch):
    monkeypatch.setattr(strings, "_CHUNK", 2)
    for names in (strings.Strings(path), strings.Strings(path)):
        assert list(names) == NAMES
        assert list(reversed(names)) == NAMES[::-1]
        assert [names[i] for i in range(-5, 5)] == [*NAMES, *NAMES]
        assert names[1:4] == NAMES[1:4]
        assert names[::-2] == NAMES[::-2]
        assert names[3:1] == []
        assert len(names) == 5
        assert names.index("line\nbreak") == 3
        assert "b" not in names
        with pytest.raises(IndexError):
            names[5]
    assert [list(c) for c in strings.chunks(names)] == [
        NAMES[:2],
        NAMES[2:4],
        NAMES[4:],
    ]


@pytest.mark.parametrize("chunk", [2, 9])
def test_json_has_one_string_per_line(path, monkeypatch, chunk):
    monkeypatch.setattr(strings, "_CHUNK", chunk)
    parts = list(strings.json_parts(strings.Strings(path)))
    assert "".join(parts) == json.dumps(NAMES, indent=0) + "\n"
    assert len(parts) == -(-len(NAMES) // chunk) + 1
    assert json.loads("".join(strings.json_parts([]))) == []


def test_a_copy_opens_the_same_file(path):
    names = strings.Strings(path)
    sent = pickle.dumps(names)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == NAMES


def test_the_file_is_mapped(path):
    before = pa.total_allocated_bytes()
    strings.write(path, [f"name {i}" for i in range(100_000)])
    names = strings.Strings(path)
    assert names[99_999] == "name 99999"
    assert pa.total_allocated_bytes() - before < 1000


def test_an_empty_list_can_be_stored(path):
    strings.write(path, [])
    assert list(strings.Strings(path)) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6])
def test_batches_of_a_file_form_one_list(path, monkeypatch, batch):
    monkeypatch.setattr(strings, "_BATCH", batch)
    strings.write(path, NAMES)
    names = strings.Strings(path)
    with pa.ipc.open_file(path) as file:
        assert file.num_record_batches == -(-len(NAMES) // batch)
    assert list(names) == NAMES
    assert [names[i] for i in range(-5, 5)] == [*NAMES, *NAMES]
    for start in range(6):
        for stop in range(start, 6):
            assert names[start:stop] == NAMES[start:stop]
            assert names.array(start, stop).to_pylist() == NAMES[start:stop]
    copy = path.with_name("copy.arrow")
    strings.write(copy, names)
    assert copy.read_bytes() == path.read_bytes()


def test_small_files_have_one_batch(path):
    with pa.ipc.open_file(path) as file:
        assert file.num_record_batches == 1


def some(rng, count):
    """Sorted distinct strings of different lengths, some not ASCII."""
    alphabet = ["a", "b", "é", "\U0001f600", "\uffff", "0"]
    drawn = {
        "".join(rng.choice(alphabet, rng.integers(1, 4))) for _ in range(count)
    }
    return sorted(drawn)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_found_positions_equal_those_of_a_dictionary(
    tmp_path, monkeypatch, chunk
):
    monkeypatch.setattr(strings, "_CHUNK", chunk)
    monkeypatch.setattr(strings, "_BATCH", 7)
    rng = np.random.default_rng(0)
    for count, others in ((0, 5), (5, 0), (1, 1), (40, 60), (90, 20)):
        names, known = some(rng, count), some(rng, others)
        place = {name: at for at, name in enumerate(known)}
        want = [place.get(name, -1) for name in names]
        strings.write(tmp_path / "a", names)
        strings.write(tmp_path / "b", known)
        a, b = strings.Strings(tmp_path / "a"), strings.Strings(tmp_path / "b")
        for one, other in ((names, known), (a, b), (a, known), (names, b)):
            found = strings.find(one, other)
            assert found.dtype == np.int32
            assert found.tolist() == want
        order = rng.permutation(len(names))
        mixed = [names[at] for at in order]
        found = strings.find(mixed, known[::-1])
        turned = {name: at for at, name in enumerate(known[::-1])}
        assert found.tolist() == [turned.get(name, -1) for name in mixed]


def test_sorted_files_are_compared_without_python_lists(tmp_path, monkeypatch):
    """Sorted lists are read in chunks."""
    monkeypatch.setattr(strings, "_CHUNK", 10)
    names = [f"{i:05}" for i in range(1000)]
    strings.write(tmp_path / "a", names)
    strings.write(tmp_path / "b", names[::3])
    sizes = []
    real = strings.Strings.array

    def array(self, start, stop):
        sizes.append(stop - start)
        return real(self, start, stop)

    monkeypatch.setattr(strings.Strings, "array", array)
    a, b = strings.Strings(tmp_path / "a"), strings.Strings(tmp_path / "b")
    found = strings.find(a, b)
    assert found[::3].tolist() == list(range(334))
    assert (found >= 0).sum() == 334
    assert max(sizes) == 10


@pytest.mark.parametrize(
    ("names", "ascending"),
    [
        ([], True),
        (["b"], True),
        (["a", "ab", "b", "é", "\uffff", "\U0001f600"], True),
        (["a", "b", "b", "c"], False),
        (["a", "c", "b"], False),
        (["b", "a", "c", "d"], False),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 9])
def test_order_is_that_of_code_points(names, ascending, monkeypatch, chunk):
    monkeypatch.setattr(strings, "_CHUNK", chunk)
    assert strings.is_ascending(names) == ascending
    assert ascending == (names == sorted(set(names)))


def test_text_that_is_not_utf8_is_damage(path):
    content = path.read_bytes()
    path.write_bytes(content.replace("größe".encode(), b"gr\xff\xff\xffe "))
    names = strings.Strings(path)
    with pytest.raises(ValueError, match="damaged"):
        names.validate()


@pytest.mark.parametrize("content", [b"", b"no arrow file", None])
def test_damaged_files_raise_an_error(path, content):
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] if content is None else content)
    with pytest.raises(ValueError, match=r"damaged|empty"):
        strings.Strings(path)
