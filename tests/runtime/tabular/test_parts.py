import errno
import os
import pathlib

import pandas as pd
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import parts, tables
from mixer_jax.runtime.tabular.tables import Layout

NAMES = ("id", "a", "b")


def frame_of(rows):
    return pd.DataFrame(rows, columns=list(NAMES), dtype=object)


def rows_of(frame):
    return list(frame.itertuples(index=False, name=None))


def test_partition_folders_become_columns(tmp_path):
    path = tmp_path / "t.parquet"
    frame = frame_of(
        [("1", "x y/z", "a"), ("2", "x y/z", "b"), ("3", None, "")]
    )
    frame.to_parquet(path, partition_cols=["a"])
    (path / "loop").symlink_to(path)
    found = tables.read(path, Layout(NAMES, exact=True))
    assert sorted(rows_of(found)) == [
        ("1", "x y/z", "a"),
        ("2", "x y/z", "b"),
        ("3", "", ""),
    ]


def test_partition_and_column_must_agree(tmp_path):
    folder = tmp_path / "t" / "b=x"
    folder.mkdir(parents=True)
    frame = frame_of([("1", "2", "x"), ("3", "4", "x")])
    frame["b"] = "x"
    frame.to_parquet(folder / "part.parquet")
    assert len(tables.read(tmp_path / "t", Layout(NAMES))) == 2
    frame.loc[1, "b"] = "y"
    frame.to_parquet(folder / "part.parquet")
    with pytest.raises(
        UserError, match=r"column b: a cell is 'y', .* specifies 'x'"
    ):
        tables.read(tmp_path / "t", Layout(NAMES))


def test_pipe_among_the_parts_is_rejected(tmp_path):
    frame_of([("1", "2", "3")]).to_parquet(tmp_path / "a.parquet")
    os.mkfifo(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b.parquet .*not a regular file"):
        tables.read(tmp_path, Layout(NAMES))


def test_folder_that_is_linked_twice_is_read_twice(tmp_path):
    folder = tmp_path / "t" / "b=x"
    folder.mkdir(parents=True)
    frame_of([("1", "2", "")])[["id", "a"]].to_parquet(folder / "p.parquet")
    (tmp_path / "t" / "b=y").symlink_to("b=x")
    (folder / "loop").symlink_to("..")
    (folder / "outer").symlink_to(tmp_path)
    assert rows_of(tables.read(tmp_path / "t", Layout(NAMES))) == [
        ("1", "2", "x"),
        ("1", "2", "y"),
    ]


@pytest.mark.parametrize("name", [".", "b"])
def test_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch, name):
    (tmp_path / "b").mkdir()
    frame_of([("1", "2", "3")]).to_parquet(tmp_path / "a.parquet")
    locked, scandir = tmp_path / name, os.scandir

    def refusing(path):
        if os.path.samefile(path, locked):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=f"{locked} .*Permission denied"):
        tables.read(tmp_path, Layout(NAMES))


@pytest.mark.parametrize("log", ["_delta_log", ".hoodie"])
def test_delta_and_hudi_tables_are_rejected(tmp_path, log):
    frame_of([("1", "2", "3")]).to_parquet(tmp_path / "a.parquet")
    (tmp_path / log).mkdir()
    with pytest.raises(UserError, match=r"is a .* table, .* as plain Parquet"):
        tables.read(tmp_path, Layout(NAMES))


def spark_folder(path):
    """Writes a table as Spark does, with an empty part."""
    for number, day in enumerate(("1", "2")):
        folder = path / f"b={day}"
        folder.mkdir(parents=True)
        order = "id,a" if number else "a,id"
        rows = "".join(
            f'{i},"x\n{i}"\n' if number else f'"x\n{i}",{i}\n'
            for i in range(3 * number, 3 * number + 3)
        )
        (folder / "part-0.csv").write_text(f"{order}\n{rows}")
        (folder / "part-1.csv").touch()
    (path / "_SUCCESS").touch()


@pytest.mark.parametrize("name", ["t", "t.csv"])
def test_folder_of_csv_parts_is_one_table(tmp_path, name):
    path = tmp_path / name
    spark_folder(path)
    layout = Layout(NAMES, exact=True)
    batches = list(tables.batches(path, layout, block=16))
    assert len(batches) > 2
    done = [batch.done for batch in batches]
    assert done == sorted(done)
    assert done[-1] == 1.0
    frame = tables.read(path, layout)
    assert rows_of(frame) == [
        (str(i), f"x\n{i}", "1" if i < 3 else "2") for i in range(6)
    ]
    assert tables.name_records(path, [5, 0]) == [
        f"{path / 'b=2' / 'part-0.csv'}, line 6",
        f"{path / 'b=1' / 'part-0.csv'}, line 2",
    ]


def test_invalid_line_of_a_csv_part_is_named(tmp_path):
    spark_folder(tmp_path / "t")
    part = tmp_path / "t" / "b=2" / "part-0.csv"
    part.write_text("id,a\n1,x\n2,y,z\n")
    with pytest.raises(UserError, match=f"{part}, line 3: the row has more"):
        tables.read(tmp_path / "t", Layout(NAMES))


def test_compressed_csv_parts_are_rejected(tmp_path):
    (tmp_path / "part-0.csv.gz").write_bytes(b"\x1f\x8b rest")
    with pytest.raises(UserError, match="it is a gzip file"):
        tables.read(tmp_path, Layout(NAMES))


def test_parts_of_different_formats_are_rejected(tmp_path):
    frame_of([("1", "2", "3")]).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("id,a,b\n1,2,3\n")
    with pytest.raises(UserError, match=r"b\.csv, and other .*a\.parquet"):
        tables.read(tmp_path, Layout(NAMES))


def test_parent_of_a_folder_named_by_a_dot(tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path / "t")
    assert parts.parent(".") == tmp_path
    assert parts.parent("t.csv") == pathlib.Path()
