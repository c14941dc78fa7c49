import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import image_column, references, tables

LAYOUT = tables.Layout(("id", "image"), images="image")
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, cells, kind=None, **settings):
    ids = [str(number) for number in range(len(cells))]
    column = pa.array(cells, kind or pa.binary())
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": ids, "image": column}), path, **settings)
    return path


def read(path, **settings):
    batches = tables.batches(path, LAYOUT, **settings)
    return pd.concat(batch.rows for batch in batches)["image"].tolist()


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.binary()),
        STRUCT,
    ],
)
def test_images_become_references(tmp_path, kind):
    cells = [JPEG, None, b"broken", PNG + b"\xff" * 5000, JPEG]
    cells[2] = b"bro\0ken"
    given = cells
    if kind == STRUCT:
        given = [{"bytes": cell, "path": "a.png"} for cell in cells]
        given[1] = None
    path = write(tmp_path / "t.parquet", given, kind)
    for rows in (1, 2, 100):
        found = read(path, rows=rows)
        assert found[1] == ""
        for row in (0, 2, 3, 4):
            reference = references.parse(found[row])
            assert reference[:2] == ("t.parquet", row)
            code = references.encode([references.digest(cells[row])])
            assert reference.digest == code[0].as_py()


def test_references_name_the_part_and_its_row(tmp_path):
    write(tmp_path / "t" / "a.parquet", [JPEG, PNG])
    write(tmp_path / "t" / "b.parquet", [PNG])
    found = [references.parse(name)[:2] for name in read(tmp_path / "t")]
    files = ["t/a.parquet", "t/a.parquet", "t/b.parquet"]
    assert found == list(zip(files, [0, 1, 0], strict=True))


@pytest.mark.parametrize("kind", [pa.binary(), pa.string(), STRUCT])
def test_paths_stay_paths(tmp_path, kind):
    cells = ["a.jpg", "größe/b c.jpg", "", None, "d#1.jpg"]
    given = cells
    if kind == STRUCT:
        given = [{"bytes": None, "path": cell} for cell in cells]
    path = write(tmp_path / "t.parquet", given, kind)
    assert read(path) == ["a.jpg", "größe/b c.jpg", "", "", "d#1.jpg"]


def test_a_mixture_of_paths_and_images_is_refused(tmp_path):
    for cells, kind, there, here in (
        ([b"", JPEG, b"a.jpg"], pa.binary(), 2, 3),
        ([b"a.jpg", None, b"b.jpg", JPEG], pa.binary(), 1, 4),
        (
            [{"bytes": JPEG, "path": "a.jpg"}, {"bytes": None, "path": "b"}],
            STRUCT,
            1,
            2,
        ),
    ):
        path = write(tmp_path / "t.parquet", cells, kind)
        for rows in (1, 100):
            with pytest.raises(UserError, match="either paths or by") as error:
                read(path, rows=rows)
            rows = re.findall(r"t\.parquet, row (\d)", str(error.value))
            assert sorted(map(int, rows)) == [there, here]
            assert "column image" in str(error.value)


def test_parts_of_two_kinds_are_refused(tmp_path):
    write(tmp_path / "t" / "a.parquet", ["a.jpg"], pa.string())
    write(tmp_path / "t" / "b.parquet", [PNG])
    with pytest.raises(UserError, match=r"b\.parquet, row 1.*a\.parquet, row"):
        read(tmp_path / "t")


def test_structs_need_bytes(tmp_path):
    kind = pa.struct([("data", pa.binary())])
    path = write(tmp_path / "t.parquet", [{"data": JPEG}], kind)
    with pytest.raises(UserError, match="structs of bytes and path"):
        read(path)


def test_other_tables_refuse_images(tmp_path):
    path = write(tmp_path / "t.parquet", [JPEG])
    with pytest.raises(UserError, match="not UTF-8"):
        list(tables.batches(path, tables.Layout(("id", "image"))))


def test_batches_of_large_images_have_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(image_column, "_BATCH", 10_000)
    rng = np.random.default_rng(0)
    same = [b"\0" + rng.bytes(999)] * 100  # Dictionary encoding stores it once.
    for cells in (same, [b"\0" + rng.bytes(999) for _ in range(100)]):
        path = write(tmp_path / "t.parquet", cells)
        batches = list(tables.batches(path, LAYOUT))
        assert 10 <= len(batches) <= 15
    path = write(tmp_path / "t.parquet", ["a.jpg"] * 10_000, pa.string())
    assert len(list(tables.batches(path, LAYOUT))) == 1
