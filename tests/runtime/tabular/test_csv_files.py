import io

import pyarrow as pa
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import csv_files

TEXT = 'a,b\n1,"x\r\ny"\r\n\r\n"2",""\r3,"\r"\n'


def test_records_have_the_line_numbers_of_an_editor(tmp_path):
    lines = io.StringIO(TEXT, newline="")
    assert list(csv_files.records(lines)) == [
        (1, ["a", "b"]),
        (2, ["1", "x\r\ny"]),
        (5, ["2", ""]),
        (6, ["3", "\r"]),
    ]
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert csv_files.name_lines(path, [2, -1, 0]) == [
        f"{path}, line {line}" for line in (6, 1, 2)
    ]


@pytest.mark.parametrize("row", ['1,"x\ny', '1,"x"y'])
def test_strict_reader_reports_the_first_line_of_a_bad_record(row):
    text = f'a,b\n1,"x\ny"\n{row}\n'
    with pytest.raises(csv_files.RecordError) as caught:
        list(csv_files.records(io.StringIO(text, newline=""), strict=True))
    assert caught.value.line == 4


def test_only_cells_that_need_quotes_are_quoted():
    cells = ["a b", "5\u2033", "é", "", " a", "a\t", 'a"b', "a,b", "\r", "\x85"]
    row = pa.table({str(i): [cell] for i, cell in enumerate(cells)})
    assert csv_files.encode(row.to_batches()[0]) == (
        'a b,5\u2033,é,," a","a\t","a""b","a,b","\r","\x85"\n'
    )
    assert csv_files.encode_header(["a", "b,c"]) == 'a,"b,c"\n'


def test_batch_has_the_selected_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.encode())
    seen = []

    def select(names, where):
        seen.append((list(names), where))
        return ["b"]

    (found,) = csv_files.batches(path, select, 1 << 10)
    assert found[0].to_pydict() == {"b": ["x\r\ny", "", "\r"]}
    assert found[1] == 1.0
    assert seen == [(["a", "b"], path)]


def test_unclosed_last_cell_of_line_breaks_is_an_error(tmp_path):
    path = tmp_path / "t.csv"
    for rows in ('x\n"\n"\n', '"\n"', 'x,""\n', '"\n\n"\n\n'):
        columns = rows.count(",") + 1
        path.write_text(",".join("ab"[:columns]) + "\n" + rows)
        assert list(csv_files.batches(path, lambda names, _: names, 1 << 10))
    for rows in ('x\n"\n', '"', 'x\n"\n\n'):
        path.write_text("a\n" + rows)
        with pytest.raises(UserError, match="unclosed quote"):
            list(csv_files.batches(path, lambda names, _: names, 1 << 10))


@pytest.mark.parametrize(
    "rows",
    [
        '1,"12 inch\n2,x\n3,"9 inch\n',  # Rows 1 to 3 would become one.
        '1,"12" pipe\n2,x\n3,y\n',
        '1,"a \\"b\\" c"\n',
        '1,"x\n',
    ],
)
def test_stray_quote_is_an_error(tmp_path, rows):
    path = tmp_path / "t.csv"
    for head in ("", 'a,b\n"0","""ok"""\n'):
        path.write_text((head or "a,b\n") + rows)
        line = 3 if head else 2
        with pytest.raises(UserError, match=f"line {line}: .*every quote"):
            list(csv_files.batches(path, lambda names, _: names, 1 << 10))


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_valid_quotes_are_read(tmp_path, monkeypatch, bom, end):
    rows = ['"a","b"', '"","""x"""', '12" pipe,a"b"c', '"1,2","\n"', '"","z"']
    path = tmp_path / "t.csv"
    path.write_text(bom + end.join(rows), newline="")
    expected = {
        "a": ["", '12" pipe', "1,2", ""],
        "b": ['"x"', 'a"b"c', "\n", "z"],
    }
    for size in (1, 2, 7, 1 << 20):
        monkeypatch.setattr(csv_files, "_SCANNED", size)
        ((table, _),) = csv_files.batches(path, lambda names, _: names, 1 << 10)
        assert table.to_pydict() == expected
