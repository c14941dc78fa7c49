import datetime
import decimal
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixer_jax.categories.clicks import events
from mixer_jax.runtime.errors import UserError

HEADER = "time,item_id,query_id,clicked,place,session\n"
NOON = 1_767_268_800  # 2026-01-01T12:00:00Z


def read(name, text, group=0):
    data = text if isinstance(text, bytes) else text.encode()
    return list(events.read(name, io.BytesIO(data), group))


def test_csv_rows_have_line_numbers_and_columns_any_order():
    text = HEADER + f'{NOON},"a\nb",q,1,7,s\n{NOON},i,q\n\n{NOON},i,q,0,7,\n'
    (first, wrong, last) = read("a/b.CSV", text)
    assert first == (2, ["q", "a\nb", str(NOON), "1", "s"])
    assert wrong == (4, "it has 3 cells, but the header has 6")
    assert last[0] == 6
    assert events.parse(first[1]) == ("q", "a\nb", NOON * 10**6, 1, "s")


def test_json_lines_are_read():
    whole = {"query_id": 3, "item_id": "i", "time": NOON, "clicked": True}
    rows = [
        json.dumps(whole),
        "",
        "{",
        "[1]",
        json.dumps({"query_id": "q", "item_id": "i", "time": NOON}),
        json.dumps(whole | {"clicked": 0, "user": 9}),
    ]
    found = read("x.jsonl", "\n".join(rows))
    assert [line for line, _ in found] == [1, 3, 4, 5, 6]
    assert events.parse(found[0][1]) == ("3", "i", NOON * 10**6, 1, "")
    assert [cells for _, cells in found[1:3]] == [
        "the line is not a JSON object"
    ] * 2
    assert found[3][1] == "clicked is missing"
    assert events.parse(found[4][1])[3:] == (0, "9")


def test_a_json_line_that_is_not_utf8_spoils_no_other():
    line = b'{"query_id": "q", "item_id": "i", "time": 1, "clicked": 0}\n'
    bad = line.replace(b"q", b"\xff")
    rows = read("a.jsonl", line + bad + line + "\u2028\u00e9".encode()[:-1])
    cells = ["q", "i", 1, 0, None]
    assert rows == [
        (1, cells),
        (2, "the line is not UTF-8 text"),
        (3, cells),
        (4, "the line is not UTF-8 text"),
    ]


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_parquet_row_groups_and_timestamps_are_read(zone):
    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "query_id": ["q0", "q1", "q2"],
            "item_id": pa.array([1, 2, None], pa.int64()),
            "time": pa.array([noon] * 3, pa.timestamp("ns", zone or "UTC")),
            "clicked": [0, 1, 1],
            "rank": [5, 6, 7],
        }
    )
    if zone is None:
        table = table.set_column(
            2, "time", table["time"].cast(pa.timestamp("ns"))
        )
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=2)
    assert events.row_groups("x.parquet", io.BytesIO(file.getvalue())) == [0, 1]
    first = read("x.parquet", file.getvalue(), 0)
    last = read("x.parquet", file.getvalue(), 1)
    assert [row for row, _ in first + last] == [1, 2, 3]
    assert events.parse(first[1][1]) == ("q1", "2", NOON * 10**6, 1, "")
    with pytest.raises(ValueError, match="item_id is empty"):
        events.parse(last[0][1])


@pytest.mark.parametrize(
    "time",
    [
        NOON,
        float(NOON),
        str(NOON),
        "2026-01-01T12:00:00",
        "2026-01-01 12:00:00Z",
        "2026-01-01T13:00:00+01:00",
        datetime.datetime(2026, 1, 1, 12),
    ],
)
def test_time_formats(time):
    assert events.microseconds(time) == NOON * 10**6


def test_fractions_of_a_second_are_kept():
    assert events.microseconds(f"{NOON}.000001") == NOON * 10**6 + 1
    assert events.microseconds("2026-01-01T12:00:00.25Z") == NOON * 10**6 + (
        250_000
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["", "i", NOON, 1, ""], "query_id is empty"),
        (["q", None, NOON, 1, ""], "item_id is empty"),
        (["q", 1.5, NOON, 1, ""], r"item_id is 1\.5"),
        (["q", "i", "noon", 1, ""], "time is 'noon'; write 2026"),
        (["q", "i", NOON * 1000, 1, ""], "must be between 1990 and 2100"),
        (["q", "i", "nan", 1, ""], "must be between 1990 and 2100"),
        (["q", "i", None, 1, ""], "time is '', which is not a valid time"),
        (["q", "i", True, 1, ""], "time is True, which is not a valid time"),
        (["q", "i", NOON, 2, ""], "clicked is '2'; it must be 0 or 1"),
        (["q", "i", NOON, None, ""], "clicked is ''"),
    ],
)
def test_invalid_rows_raise_an_error(cells, message):
    with pytest.raises(ValueError, match=message):
        events.parse(cells)


def test_ids_become_text():
    """Spark writes text as bytes, and pandas may write integers as floats."""
    cells = ["q", 12.0, NOON, 1, b"\xc3\xa9"]
    assert events.parse(cells) == ("q", "12", NOON * 10**6, 1, "é")
    assert events.identity(b"\xc3\xa9", "item_id") == "é"
    for wrong, message in (
        (b"", "is empty"),
        (float("nan"), "is empty"),
        (2.0**53, "must be text or a whole number"),
        (b"\xff", "item_id is .* not UTF-8 text"),
    ):
        with pytest.raises(ValueError, match=message):
            events.identity(wrong, "item_id")


def test_duplicate_columns_are_rejected_and_long_cells_are_read():
    with pytest.raises(UserError, match='column "item_id" more than once'):
        read("a.csv", "query_id,item_id,item_id,time,clicked\n")
    name = "q" * 200_000
    rows = read("a.csv", f"query_id,item_id,time,clicked\n{name},i,{NOON},1\n")
    assert rows == [(2, [name, "i", f"{NOON}", "1", None])]


def test_a_missing_column_is_named():
    with pytest.raises(
        UserError, match=r"a\.csv has no column 'clicked'; it needs"
    ):
        read("a.csv", "query_id,item_id,time\n")
    with pytest.raises(UserError, match="its columns are: none"):
        read("a.csv", "")
    file = io.BytesIO()
    pq.write_table(pa.table({"query_id": ["q"]}), file)
    with pytest.raises(UserError, match="no column 'item_id'"):
        read("a.parquet", file.getvalue())


def test_damaged_files_raise_an_error():
    packed = gzip.compress((HEADER + f"{NOON},i,q,1,7,s\n" * 2000).encode())
    assert len(read("b.csv.gz", packed)) == 2000
    with pytest.raises(
        UserError, match=r"b\.csv\.gz cannot be read completely"
    ):
        read("b.csv.gz", packed[:-40])
    with pytest.raises(UserError, match=r"b\.parquet cannot be read"):
        events.row_groups("b.parquet", io.BytesIO(b"nothing"))
    with pytest.raises(UserError, match=r"b\.csv, line 2 is not UTF-8"):
        read("b.csv", HEADER.encode() + b"\xff,i,q,1,7,s\n")


def test_unknown_file_types_raise_an_error():
    assert events.kind("gs://b/x.NDJSON.gz") == ".ndjson"
    with pytest.raises(UserError, match=r"x\.avro has an unknown suffix"):
        events.kind("x.avro")
    assert (events.row_name("a.csv.gz"), events.row_name("a.parquet")) == (
        "line",
        "row",
    )


@pytest.mark.parametrize(
    ("place", "cell", "message"),
    [
        (0, "\ud800", "query_id is .* lone surrogate"),
        (1, "a\udfff", "item_id is .* lone surrogate"),
        (4, "\ud800", "session is .* lone surrogate"),
        (2, 10**400, "time is too large; as seconds"),
        (2, float("nan"), "time is .*; as seconds"),
        (2, float("-inf"), "time is .*; as seconds"),
    ],
)
def test_cells_that_cannot_be_stored_raise_an_error(place, cell, message):
    cells = ["q", "i", 1_700_000_000, 1, None]
    cells[place] = cell
    with pytest.raises(ValueError, match=message):
        events.parse(cells)


@pytest.mark.parametrize(
    ("value", "session"),
    [
        (None, ""),
        ("", ""),
        (b"", ""),
        (float("nan"), ""),
        (12.0, "12"),
        (decimal.Decimal("12"), "12"),
    ],
)
def test_missing_sessions_are_empty_and_numbers_become_text(value, session):
    assert events.parse(["q", "i", NOON, 1, value])[4] == session


def test_invalid_sessions_raise_an_error():
    for value in ({"a": 1}, 1e17, b"\xff"):
        with pytest.raises(ValueError, match="session is "):
            events.parse(["q", "i", NOON, 1, value])


def test_decimals_dates_and_bytes_are_read():
    number = decimal.Decimal
    cells = [number("12.00"), number(7), number(NOON), number("1.0"), None]
    assert events.parse(cells) == ("12", "7", NOON * 10**6, 1, "")
    day = datetime.date(2026, 1, 1)
    cells = ["q", "i", day, b"true", None]
    assert events.parse(cells)[2:4] == ((NOON - 12 * 3600) * 10**6, 1)
    assert events.parse(["q", "i", b"2026-01-01", 1, None])[2] == (
        (NOON - 12 * 3600) * 10**6
    )


@pytest.mark.parametrize("name", ["item_id", "time"])
def test_narrow_floats_that_may_be_rounded_raise_an_error(name):
    cells = {"query_id": ["q"], "item_id": [5.0], "time": ["x"], "clicked": [1]}
    for value, kind in ((16_777_216.0, pa.float32()), (5.0, pa.float16())):
        cells[name] = pa.array([value], kind)
        file = io.BytesIO()
        pq.write_table(pa.table(cells), file)
        if value == 5.0:
            assert read("x.parquet", file.getvalue())[0][1][1] == 5.0
            continue
        with pytest.raises(UserError, match=f"column {name}: low-precision"):
            read("x.parquet", file.getvalue())


@pytest.mark.parametrize("name", ["b.csv", "b.csv.gz"])
def test_invalid_csv_raises_an_error_with_its_line(name):
    good = HEADER + f'{NOON},"a\nb",q,1,7,s\n'
    pack = gzip.compress if name.endswith(".gz") else bytes
    for bad in (f'{NOON},"i"i,q,1,7,s\n', f'{NOON},"i,q,1,7,s\n'):
        with pytest.raises(UserError, match=rf"{name}, line 4: .* quote"):
            read(name, pack((good + bad + good[-9:]).encode()))
    with pytest.raises(UserError, match=rf"{name}, line 4 is not UTF-8"):
        read(name, pack(good.encode() + b"\xe9" + good.encode()))
    with pytest.raises(UserError, match=rf"{name}, line 1 is not UTF-8"):
        read(name, pack(good.encode("utf-16")))


def test_empty_lines_before_the_header_are_skipped():
    assert read("b.csv", f"\n{HEADER}{NOON},i,q,1,7,s\n")[0][0] == 3
