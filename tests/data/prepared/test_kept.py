import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.prepared import kept, records, tasks
from mixer_jax.data.tables import table
from mixer_jax.runtime import identity


def rows_and_sizes(cells, sizes):
    frame = pd.DataFrame(cells, columns=table.COLUMNS)
    images = [name for name in frame["image"].unique() if name]
    times = np.arange(len(images))
    status = (np.array(sizes[: len(images)]), times)
    data = identity.Data("", len(frame), images, images, *status)
    of_rows, _ = kept.Images(frame, data).status()
    return frame, of_rows


def row(number, **changes):
    cells = dict.fromkeys(table.COLUMNS, "") | {
        "sample_id": f"s{number}",
        "image": f"{number}.png",
    }
    return [*(cells | changes).values()]


def test_keys_depend_on_each_cell_and_on_the_image():
    seen = set()
    cases = [(row(0), 5), (row(0), 6), (row(0, image=""), 5)]
    cases += [(row(0, **{name: "x"}), 5) for name in table.COLUMNS]
    # The boundary between adjacent cells affects the key.
    cases += [(row(0, text="ab", group="c"), 5)]
    cases += [(row(0, text="a", group="bc"), 5)]
    for cells, size in cases:
        frame, sizes = rows_and_sizes([cells], [size])
        key = kept.keys(frame, sizes, 7)
        np.testing.assert_array_equal(key, kept.keys(frame, sizes, 7))
        seen.add(tuple(key[0].tolist()))
        assert (kept.keys(frame, sizes, 8) != key).any()
    assert len(seen) == len(cases)


def test_a_key_does_not_depend_on_the_other_rows():
    frame, sizes = rows_and_sizes([row(0), row(1), row(2, image="")], [5, 6])
    alone, size_alone = rows_and_sizes([row(1)], [6])
    np.testing.assert_array_equal(
        kept.keys(frame, sizes, 7)[1:2], kept.keys(alone, size_alone, 7)
    )


@pytest.fixture
def version(tmp_path):
    """A version of three rows, the second of which was left out."""
    keys = np.array([[5, 1], [3, 2], [9, 3]], np.uint64)
    digests = np.arange(48, dtype=np.uint8).reshape(3, 16)
    rows = kept.make(keys, np.array([0, -1, 1]), digests)
    np.save(tmp_path / kept.ROWS, rows)
    return tmp_path


def test_rows_are_found_by_both_halves_of_their_key(version):
    now = np.array([[9, 3], [3, 2], [5, 2], [7, 7], [10, 0]], np.uint64)
    digests = np.zeros((5, 16), np.uint8)
    digests[:2] = np.arange(32, 48), np.arange(16, 32)
    found = kept.find(version, [], now, digests)
    assert found.count == 1
    np.testing.assert_array_equal(found._records, [1, -1, -1, -1, -1])
    np.testing.assert_array_equal(found._digests[0], np.arange(32, 48))


def test_damaged_rows_are_ignored(version):
    now = np.array([[9, 3]], np.uint64)
    digests = np.arange(32, 48, dtype=np.uint8)[None]
    assert kept.find(version, [], now, digests) is not None
    assert kept.find(version, [], now + np.uint64(1), digests) is None
    assert kept.find(version, [], now, digests + np.uint8(1)) is None
    (version / kept.ROWS).write_bytes(b"damaged")
    assert kept.find(version, [], now, digests) is None
    (version / kept.ROWS).unlink()
    assert kept.find(version, [], now, digests) is None


def test_a_shard_reads_few_files_of_an_earlier_version(version, monkeypatch):
    monkeypatch.setattr(kept, "_MAX_OPEN", 2)
    keys = np.array([[i, i] for i in range(12)], np.uint64)
    digests = np.zeros((12, 16), np.uint8)
    rows = kept.make(keys, np.arange(12), digests)
    np.save(version / kept.ROWS, rows)
    parts = [records.Part(str(i), size) for i, size in enumerate((5, 4, 3))]
    order = np.array([11, 0, 4, 5, 3, 6, 8, 7])  # of files 2, 0, 0, 1, 0, ...
    found = kept.find(version, parts, keys[order], digests[order])
    assert found.count == 8
    earlier = found.for_shard(tasks.Shard("", "", np.arange(8)))
    np.testing.assert_array_equal(earlier.records, [-1, *order[1:]])
    assert [part.filename for part in earlier.parts] == ["0", "1"]
