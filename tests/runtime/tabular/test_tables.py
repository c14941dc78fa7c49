import contextlib
import io
import os
import pathlib
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import csv_files, tables
from mixer_jax.runtime.tabular.tables import Layout

NAMES = ("id", "a", "b")
LAYOUT = Layout(NAMES, ids=("id",))
HARD = st.sampled_from(
    ["\r", "\n", "\r\n", '"', '""', ",", "\0", "\x1a", "\x85", "\u2028"]
    + ["\u2029", "\ufeff", " ", "\t", "\x0b", "\xa0", "NA", "null", "=1", "é"]
)
CELL = st.one_of(
    st.text(max_size=6), st.lists(HARD, max_size=4).map("".join), HARD
)
ROWS = st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6)
FEW = settings(max_examples=40, deadline=None)


def frame_of(rows, names=NAMES):
    return pd.DataFrame(rows, columns=list(names), dtype=object)


def rows_of(frame):
    return list(frame.itertuples(index=False, name=None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
@FEW
@given(rows=ROWS)
def test_any_text_reads_back_unchanged(folder, suffix, rows):
    path = folder / f"t{suffix}"
    tables.write(frame_of(rows), path)
    assert rows_of(tables.read(path, LAYOUT)) == rows
    small = [*tables.batches(path, LAYOUT, rows=1, block=200)]
    assert rows_of(pd.concat(batch.rows for batch in small)) == rows
    if suffix == ".csv":
        assert path.read_bytes().decode() == tables.csv_text(frame_of(rows))


@FEW
@given(cells=st.lists(CELL, min_size=1, max_size=6))
def test_any_single_column_reads_back_unchanged(folder, cells):
    path = folder / "one.csv"
    tables.write(frame_of([(cell,) for cell in cells], ["a"]), path)
    assert tables.read(path, Layout(("a",)))["a"].tolist() == cells


@FEW
@given(rows=ROWS)
def test_python_and_arrow_find_the_same_records(folder, rows):
    """Line numbers come from Python's parser, so it must agree with Arrow."""
    path = folder / "other.csv"
    tables.write(frame_of(rows), path)
    text = path.read_bytes().decode()
    found = list(csv_files.records(io.StringIO(text, newline=""), strict=True))
    assert [tuple(cells) for _, cells in found[1:]] == rows
    lines = [line for line, _ in found[1:]]
    names = tables.name_records(path, range(len(rows)))
    assert names == [f"{path}, line {line}" for line in lines]


@FEW
@given(rows=ROWS, data=st.data())
def test_truncated_file_is_rejected_or_a_prefix(folder, rows, data):
    path = folder / "cut.csv"
    tables.write(frame_of(rows), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = rows_of(tables.read(path, LAYOUT))
    except UserError:
        return
    assert found[:-1] == rows[: len(found) - 1]
    assert found[-1][:2] == rows[len(found) - 1][:2]
    assert rows[len(found) - 1][2].startswith(found[-1][2])


@FEW
@given(
    rows=ROWS,
    place=st.integers(min_value=0),
    byte=st.integers(0, 255),
)
def test_damaged_file_is_read_or_rejected(folder, rows, place, byte):
    path = folder / "bad.csv"
    tables.write(frame_of(rows), path)
    whole = bytearray(path.read_bytes())
    whole[place % len(whole)] = byte
    path.write_bytes(whole)
    with contextlib.suppress(UserError):
        assert tuple(tables.read(path, LAYOUT).columns) == NAMES


@FEW
@given(rows=ROWS, at=st.integers(min_value=0))
def test_row_with_extra_cells_is_reported_with_its_line(folder, rows, at):
    at %= len(rows)
    before, after = frame_of(rows[:at]), frame_of(rows[at:])
    text = tables.csv_text(before) + "x,y,z,\n"
    line = len(list(io.StringIO(text, newline=None)))
    path = folder / "ragged.csv"
    text += tables.csv_text(after).split("\n", 1)[1]
    path.write_bytes(text.encode())
    with pytest.raises(UserError, match=rf"ragged\.csv, line {line}: .*more"):
        tables.read(path, LAYOUT)


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_lone_surrogates_are_reported_with_row_and_column(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"column a, row 2: .*\\udcff"):
        tables.write(frame_of([("1", "x", ""), ("2", "\udcff", "")]), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_bytes(b"old")
    monkeypatch.setattr(csv_files, "BLOCK", 10)
    with pytest.raises(UserError, match=r"choose a \.parquet file"):
        tables.write(frame_of([("1", "a long text", "")]), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_are_written_as_numbers(tmp_path):
    frame = pd.DataFrame({"id": ["x"], "a": [3], "b": [2.0]})
    frame.loc[1] = ["y", 4, None]
    for suffix in tables.SUFFIXES:
        path = tmp_path / f"t{suffix}"
        tables.write(frame, path)
        assert rows_of(tables.read(path, LAYOUT)) == [
            ("x", "3", "2"),
            ("y", "4", ""),
        ]
    assert pa.types.is_integer(pq.read_schema(path).field("a").type)


def test_other_columns_are_ignored_or_rejected(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(",id,b,a,\n0,x,2,1,\n")
    assert rows_of(tables.read(path, LAYOUT)) == [("x", "1", "2")]
    exact = Layout(NAMES, exact=True)
    with pytest.raises(UserError, match=r"Unknown column ''.*pandas index"):
        tables.read(path, exact)
    more = Layout(("id",), optional=("a", "c"))
    assert rows_of(tables.read(path, more)) == [("x", "1", "")]
    path.write_text("id,a,b,a\n")
    with pytest.raises(UserError, match="Duplicate column 'a'"):
        tables.read(path, LAYOUT)
    path.write_text("id,a,B\n")
    with pytest.raises(UserError, match="column 'b'; did you mean 'B'"):
        tables.read(path, LAYOUT)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_table_with_only_a_header_has_no_rows(tmp_path, end):
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,a,b" + end.encode())
    assert tables.read(path, LAYOUT, allow_empty=True).shape == (0, 3)
    with pytest.raises(UserError, match="no rows, only a header"):
        tables.read(path, LAYOUT)
    tables.write(frame_of([]), path)
    assert tables.read(path, LAYOUT, allow_empty=True).shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,a,b\nx,y,z\n".encode("utf-16"), "it is UTF-16 text"),
        ("id,a,b\nx,y,z\n".encode("utf-16-be"), "it is UTF-16 text or"),
        ("id,a,b\nx,y,z\n".encode("utf-32"), "it is UTF-32 text"),
        ("id,a,b\n\nx,é,z\n".encode("latin-1"), "line 3 is not UTF-8"),
        ("id,a,b,é\nx,y,z,1\n".encode("latin-1"), "line 1 is not UTF-8"),
        (b"\x1f\x8b\x08abc", "a gzip file"),
        (b"PK\x03\x04abc", "a spreadsheet"),
        (b"PAR1abc", "a Parquet file"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b'id,a,"b\nx,y,z\n', "wrong columns"),
        (b'id,a,b,"c\nx,y,z\n', "line 1: .* an unclosed quote"),
        (b'id,a,b\nx,y,z\n\nx,"y\n,z\n', "line 4: .*an unclosed quote"),
    ],
)
def test_invalid_csv_files_raise_an_error(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        tables.read(path, LAYOUT)


def test_unclosed_quote_is_reported_with_its_own_line(tmp_path):
    path = tmp_path / "t.csv"
    rows = ['"a\nb",y,z', "", 'x,"y,z', *["x,y,z"] * 99]
    path.write_text("\n".join(("id,a,b", *rows)))
    message = "line 5: the row has more than 100 bytes; is there an unclosed"
    with pytest.raises(UserError, match=message):
        list(tables.batches(path, LAYOUT, block=100))


def parts(path):
    """Writes a table in three parts, as Spark does; one part is a link."""
    path.mkdir()
    for number, rows in enumerate(([1, 2], [3], [4, 5])):
        part = pa.table({"id": rows, "a": [b"\xc3\xa9"] * len(rows), "x": rows})
        pq.write_table(part, path / f"part-0000{number}.snappy.parquet")
    (path / "_SUCCESS").touch()
    (path / ".part-00000.crc").write_bytes(b"crc")
    last = path / "part-00002.snappy.parquet"
    last.rename(path.parent / "elsewhere.parquet")
    last.symlink_to(path.parent / "elsewhere.parquet")
    return Layout(("id", "a"), ids=("id",))


@pytest.mark.parametrize("name", ["t.parquet", "t"])
def test_folder_of_parts_is_one_table(tmp_path, name):
    path = tmp_path / name
    layout = parts(path)
    (tmp_path / "link").symlink_to(path)
    for place in (path, tmp_path / "link"):
        frame = tables.read(place, layout)
        assert rows_of(frame) == [(str(i), "é") for i in range(1, 6)]
        assert list(frame.index) == list(range(5))
        done = [batch.done for batch in tables.batches(place, layout, rows=1)]
        assert done == sorted(done)
        assert done[-1] == 1.0
    assert tables.name_records(path, [4, 0]) == [
        f"{path / 'part-00002.snappy.parquet'}, row 2",
        f"{path / 'part-00000.snappy.parquet'}, row 1",
    ]


def test_incomplete_or_invalid_folder_is_rejected(tmp_path):
    path = tmp_path / "t.parquet"
    layout = parts(path)
    (path / "notes.txt").write_text("not a part")
    with pytest.raises(UserError, match=r"notes\.txt cannot be read"):
        tables.read(path, layout)
    (path / "notes.txt").unlink()
    (path / "_temporary").mkdir()
    with pytest.raises(UserError, match="is not complete"):
        tables.read(path, layout)
    (path / "_temporary").rmdir()
    with pytest.raises(UserError, match="is a folder; move it"):
        tables.write(frame_of([]), path)
    (tmp_path / "none.parquet").mkdir()
    with pytest.raises(UserError, match="without Parquet or CSV files"):
        tables.read(tmp_path / "none.parquet", layout)
    # A folder has the format of its parts, regardless of its own suffix.
    path.rename(tmp_path / "t.csv")
    assert len(tables.read(tmp_path / "t.csv", layout)) == 5


def test_part_with_other_columns_is_reported(tmp_path):
    path = tmp_path / "t.parquet"
    layout = parts(path)
    pq.write_table(pa.table({"a": [1]}), path / "part-00001.snappy.parquet")
    with pytest.raises(UserError, match=r"part-00001.*\n  Missing column 'id'"):
        tables.read(path, layout)


def test_suffixes_ignore_case(tmp_path):
    frame = frame_of([("1", "2", "3")])
    for suffix in ("CSV", "Parquet"):
        path = tmp_path / f"t.{suffix}"
        tables.write(frame, path)
        assert rows_of(tables.read(path, LAYOUT)) == rows_of(frame)


def test_tables_are_found_by_name(tmp_path):
    assert tables.find(tmp_path, "t") is None
    (tmp_path / "t.parquet").mkdir()
    assert tables.find(tmp_path, "t") == tmp_path / "t.parquet"
    (tmp_path / "t.csv").touch()
    with pytest.raises(UserError, match=r"has both t\.csv and t\.parquet"):
        tables.find(tmp_path, "t")


def test_missing_or_unsupported_tables_raise_an_error(tmp_path):
    with pytest.raises(UserError, match="no table at"):
        tables.read(tmp_path / "t.csv", LAYOUT)
    with pytest.raises(UserError, match="no table at"):
        tables.read(tmp_path / ("t" * 5000 + ".csv"), LAYOUT)
    (tmp_path / "t.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="it is a broken link"):
        tables.read(tmp_path / "t.csv", LAYOUT)
    for act in (
        lambda path: tables.read(path, LAYOUT),
        lambda path: tables.write(frame_of([]), path),
    ):
        (tmp_path / "t.xlsx").touch()
        with pytest.raises(UserError, match=r"a \.csv or a \.parquet file"):
            act(tmp_path / "t.xlsx")


def test_write_follows_links(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "t.csv"
    link.symlink_to(tmp_path / "there" / "real.csv")
    tables.write(frame_of([("1", "2", "3")]), link)
    assert link.is_symlink()
    assert (tmp_path / "there/real.csv").read_text() == "id,a,b\n1,2,3\n"


def test_arrow_tables_are_written_without_pandas(tmp_path):
    """Beam's environment has PyArrow, but may lack pandas."""
    code = (
        "import pyarrow as pa\n"
        "from mixer_jax.runtime.tabular import tables\n"
        "for name in ('t.csv', 't.parquet'):\n"
        "    tables.write(pa.table({'id': ['a,b']}), name)\n"
    )
    (tmp_path / "pandas.py").write_text("raise ImportError\n")
    root = pathlib.Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
    )
    for suffix in tables.SUFFIXES:
        frame = tables.read(tmp_path / f"t{suffix}", Layout(("id",)))
        assert rows_of(frame) == [("a,b",)]


def test_pipe_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UserError, match="is not a regular file"):
        tables.read(tmp_path / "t.csv", Layout(("id",)))


def test_many_or_long_columns_give_a_short_message(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(",".join(f"u{i}" for i in range(20_000)) + "\n")
    for layout in (LAYOUT, Layout(NAMES, exact=True)):
        with pytest.raises(UserError, match="Missing column 'id'") as caught:
            tables.read(path, layout)
        assert "19,990 more" in str(caught.value)
        assert len(str(caught.value)) < 2000
    path.write_text(f"id,a,b,{'n' * 6000}\n")
    with pytest.raises(UserError, match="6,000 characters") as e:
        tables.read(path, Layout(NAMES, exact=True))
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_that_changes_while_it_is_read_is_rejected(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    tables.write(frame_of([("1", "2", "3")] * 100), path)
    batches = tables.batches(path, LAYOUT, rows=10, block=100)
    next(batches)
    tables.write(frame_of([("1", "2", "4")] * 100), path)
    with pytest.raises(UserError, match="changed while it was being read"):
        list(batches)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "folder"])
def test_rows_of_a_changed_table_can_be_named(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        file = path / "part.parquet"
    else:
        file = path
    tables.write(frame_of([("1", "2", "3")]), file)
    as_read = f"{path}, row 5 as read"
    assert tables.name_records(path, [4])[0] in (as_read, f"{path}, row 5")
    file.unlink()
    assert tables.name_records(path, [4])[0] in (as_read, f"{path}, row 5")


def test_files_that_are_not_parquet_raise_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a\.png .* every file .* must be one"):
        tables.read(tmp_path, LAYOUT)
    (tmp_path / "t.parquet").write_text("id,a,b\n")
    with pytest.raises(UserError, match="it is not a complete Parquet file"):
        tables.read(tmp_path / "t.parquet", LAYOUT)


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.string(), "dictionary"]
)
def test_cell_that_is_not_utf8_is_reported_with_its_row(tmp_path, kind):
    cells = pa.array([b"x", None, b"\xff"], pa.binary())
    if kind == "dictionary":
        cells = cells.dictionary_encode()
    elif kind == pa.string():
        cells = pa.Array.from_buffers(kind, 3, cells.buffers())
    else:
        cells = cells.cast(kind)
    names = pa.array(["1", "2", "3"])
    whole = pa.table({"id": names, "a": names, "b": names})
    torn = pa.table({"id": names, "a": names, "b": cells})
    folder = tmp_path / "t"
    folder.mkdir()
    pq.write_table(whole, folder / "1.parquet")
    pq.write_table(torn, folder / "2.parquet")
    with pytest.raises(UserError, match=r"2\.parquet, row 3, column b: a cell"):
        tables.read(folder, LAYOUT)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "parts"])
def test_folder_whose_name_is_not_utf8_is_read(tmp_path, name):
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("This file system allows only UTF-8 names.")
    path = folder / name
    part = path if path.suffix else path / "part-0.parquet"
    tables.write(pd.DataFrame({"a": ["x", "y"]}), part)
    found = tables.read(path, Layout(("a",)))
    assert found["a"].tolist() == ["x", "y"]
    (row,) = tables.name_records(path, [1])
    assert row == f"{part}, {'line 3' if path.suffix == '.csv' else 'row 2'}"
