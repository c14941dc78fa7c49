import io

import pyarrow as pa
import pytest

from mixer_jax.errors import UserError
from mixer_jax.runtime import csv_files

TEXT = 'a,b\n1,"x\r\ny"\r\n\r\n"2",""\r3,"\r"\n'


def test_records_start_where_an_editor_shows_them(tmp_path):
    lines = io.StringIO(TEXT, newline="")
    assert list(csv_files.records(lines)) == [
        (1, ["a", "b"]),
        (2, ["1", "x\r\ny"]),
        (5, ["2", ""]),
        (6, ["3", "\r"]),
    ]
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert csv_files.find_lines(path, [2, -1, 0]) == [6, 1, 2]


@pytest.mark.parametrize("row", ['1,"x\ny', '1,"x"y'])
def test_a_strict_reader_names_the_start_of_a_bad_record(row):
    text = f'a,b\n1,"x\ny"\n{row}\n'
    with pytest.raises(csv_files.RecordError) as caught:
        list(csv_files.records(io.StringIO(text, newline=""), strict=True))
    assert caught.value.line == 4


def test_only_cells_that_need_it_are_quoted():
    cells = ["a b", "5\u2033", "é", "", " a", "a\t", 'a"b', "a,b", "\r", "\x85"]
    row = pa.table({str(i): [cell] for i, cell in enumerate(cells)})
    assert csv_files.encode(row.to_batches()[0]) == (
        'a b,5\u2033,é,," a","a\t","a""b","a,b","\r","\x85"\n'
    )
    assert csv_files.encode_header(["a", "b,c"]) == 'a,"b,c"\n'


def test_a_batch_is_what_is_selected(tmp_path):
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


def test_a_last_cell_of_line_breaks_is_closed_or_not(tmp_path):
    path = tmp_path / "t.csv"
    for rows in ('x\n"\n"\n', '"\n"', 'x,""\n', '"\n\n"\n\n'):
        columns = rows.count(",") + 1
        path.write_text(",".join("ab"[:columns]) + "\n" + rows)
        assert list(csv_files.batches(path, lambda names, _: names, 1 << 10))
    for rows in ('x\n"\n', '"', 'x\n"\n\n'):
        path.write_text("a\n" + rows)
        with pytest.raises(UserError, match="unclosed quote"):
            list(csv_files.batches(path, lambda names, _: names, 1 << 10))
