import os
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixer_jax.runtime.tabular import image_reader, references


def write(path, contents, **settings):
    table = pa.table({"image": pa.array(contents, pa.binary())})
    pq.write_table(table, path, **settings)
    return [
        references.Reference(str(path), row, code)
        for row, code in enumerate(
            references.encode(
                [references.digest(one) for one in contents]
            ).to_pylist()
        )
    ]


def draw(count, size=1000):
    rng = np.random.default_rng(0)
    return [rng.bytes(size) for _ in range(count)]


@pytest.mark.parametrize("order", ["up", "down", "random"])
@pytest.mark.parametrize("group", [7, 1000])
def test_rows_are_read_in_any_order(tmp_path, monkeypatch, order, group):
    monkeypatch.setattr(image_reader, "_BATCH", 20_000)
    contents = draw(200)
    names = write(tmp_path / "t.parquet", contents, row_group_size=group)
    rows = list(range(200))
    if order == "random":
        random.Random(0).shuffle(rows)
    for row in rows if order != "down" else rows[::-1]:
        assert image_reader.read(names[row]) == contents[row]


def test_threads_share_the_cursors(tmp_path, monkeypatch):
    monkeypatch.setattr(image_reader, "_BATCH", 5_000)
    contents = draw(400)
    names = write(tmp_path / "t.parquet", contents)

    def read(start):
        part = slice(start, start + 50)
        found = [image_reader.read(name) for name in names[part]]
        return found == contents[part]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, 400, 50)))
    assert len(image_reader._READER._cursors) <= image_reader._CURSORS


def test_a_file_is_not_read_as_a_whole(tmp_path, monkeypatch):
    """Files with a single row group are also read in parts."""
    monkeypatch.setattr(image_reader, "_BATCH", 50_000)
    names = write(tmp_path / "t.parquet", draw(2000))
    pools = pa.default_memory_pool()
    image_reader.read(names[0])
    before = pools.bytes_allocated()
    for name in names:
        image_reader.read(name)
        assert pools.bytes_allocated() - before < 500_000


def test_a_changed_file_is_noticed(tmp_path):
    path = tmp_path / "t.parquet"
    names = write(path, draw(3))

    def name_of(row):
        return f"{path}#{row + 1}@{names[row].digest}"

    assert image_reader.read(names[2]) == draw(3)[2]
    new = write(path, draw(2)[::-1])
    with pytest.raises(image_reader.ChangedError, match="no row 3"):
        image_reader.read(names[2])
    with pytest.raises(image_reader.ChangedError, match="row 1 no longer"):
        image_reader.read(names[0])
    assert image_reader.read(new[0]) == draw(2)[1]
    assert image_reader.is_filled(name_of(1))
    assert not image_reader.is_filled(name_of(2))
    os.unlink(path)
    assert not image_reader.is_filled(name_of(1))
    with pytest.raises(FileNotFoundError):
        image_reader.read(names[1])


def test_the_column_is_found_by_its_content(tmp_path):
    contents, path = draw(4), tmp_path / "t.parquet"
    (name,) = write(path, contents[:1])
    struct = [{"bytes": contents[0], "path": None}]
    pq.write_table(
        pa.table({"image": ["a.jpg"], "key": [contents[1]], "it": struct}), path
    )
    assert image_reader.read(name) == contents[0]


def test_a_damaged_file_raises_an_error(tmp_path):
    path = tmp_path / "t.parquet"
    names = write(path, draw(10))
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises((pa.ArrowException, OSError)):
        image_reader.read(names[0])
