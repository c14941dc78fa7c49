"""Reads and validates click events logged by a shop.

A file is CSV, JSON lines (either may end in .gz) or Parquet, with the columns

  query_id, item_id   as in the tables of the click log
  time                ISO 8601 (UTC if no zone is given) or seconds since 1970
  clicked             1 if the item was clicked, 0 if it was only shown
  session or user     optional: identifies who saw the item

Other columns are ignored. This module needs only PyArrow, since cluster workers
that read events have little else installed.
"""

import contextlib
import csv
import datetime
import decimal
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import listing, quoted

COLUMNS = ("query_id", "item_id", "time", "clicked")
SESSIONS = ("session", "session_id", "user", "user_id")  # by priority
KINDS = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")

# query, item, time in microseconds since 1970, clicked, session ("" if none).
Event = tuple[str, str, int, int, str]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
# Numbers outside this range are not seconds but, e.g., milliseconds.
_FIRST, _LAST = 631_152_000, 4_102_444_800  # 1990 and 2100
_CLICKED = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}
_EXACT = 2**53  # floats this large may have been rounded
# Likewise, for narrower float types.
_NARROW = {pa.float16(): 2**11, pa.float32(): 2**24}
_BATCH = 16384  # Parquet rows held in memory at once
# Exceptions that readers raise for truncated files or wrong formats.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    csv.Error,
    zlib.error,
    pa.ArrowException,
)


def kind(path: str) -> str:
    """Returns the suffix that determines the format of a file.

    Raises:
      UserError: if it is not one of `KINDS`.
    """
    name = path.lower().removesuffix(".gz")
    for suffix in KINDS:
        if name.endswith(suffix):
            return suffix
    raise UserError(
        f"{path} has an unknown suffix; use one of {', '.join(KINDS)}. All but "
        "the last may be followed by .gz."
    )


def row_groups(path: str, file: BinaryIO) -> list[int]:
    """Returns the parts of a file that can be read independently.

    These are the row groups of a Parquet file. Any other file has a single part
    0, so a large log should consist of many such files.

    Raises:
      UserError: if the file does not have the format that its suffix implies.
    """
    if kind(path) != ".parquet":
        return [0]
    with _explained(path, file):
        return list(range(pq.ParquetFile(file).num_row_groups))


def read(
    path: str,
    file: BinaryIO,
    group: int = 0,
    columns: Sequence[str] = COLUMNS,
    optional: Sequence[str] = SESSIONS,
) -> Iterator[tuple[int, list[Any] | str]]:
    """Yields the rows of a part of a file.

    Args:
      path: path of the file; its suffix determines the format.
      file: the file opened in binary mode, not decompressed.
      group: one of `row_groups`.
      columns: columns that every row must have.
      optional: the first of these columns present in the file is also read.

    Yields:
      The line number (for Parquet, the row number from 1), and the row's cells
      with the optional one last (None if absent), or an error message instead.

    Raises:
      UserError: if the file is damaged or lacks a column.
    """
    rows = {".csv": _csv, ".parquet": _parquet}.get(kind(path), _json)
    if path.lower().endswith(".gz"):
        file = gzip.GzipFile(fileobj=file)
    with _explained(path, file):
        yield from rows(path, file, group, tuple(columns), tuple(optional))


def parse(cells: Sequence[Any]) -> Event:
    """Parses a row's cells, `COLUMNS` and the session, into an event.

    Raises:
      ValueError: if a cell is missing or invalid.
    """
    query, item, time, clicked, session = cells
    clicked = _plain(clicked, "clicked")
    text = "" if clicked is None else str(clicked)
    click = _CLICKED.get(text.strip().lower())
    if click is None:
        raise ValueError(f"clicked is {quoted(text)}; it must be 0 or 1")
    return (
        identity(query, "query_id"),
        identity(item, "item_id"),
        microseconds(time),
        click,
        _session(session),
    )


def _session(value: Any) -> str:
    """Returns a session as text; "" for none."""
    value = _plain(value, "session")
    return "" if _is_missing(value) else identity(value, "session")


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def _plain(value: Any, column: str) -> Any:
    """Converts bytes and decimals from other programs to text."""
    if isinstance(value, bytes):  # Spark may write text as bytes.
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(
                f"{column} is {quoted(value)}, which is not UTF-8 text"
            ) from None
    if isinstance(value, decimal.Decimal):  # as in `cells.as_text`
        return re.sub(r"\.0+$", "", f"{value:f}")
    return value


def _whole(text: str, column: str) -> str:
    """Returns `text`; rejects lone surrogates, which no table can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{column} is {quoted(text)}, which contains a lone surrogate"
        ) from None
    return text


def identity(value: Any, column: str) -> str:
    """Returns an ID as text.

    Raises:
      ValueError: if it is empty, or neither text nor a whole number.
    """
    value = _plain(value, column)
    if isinstance(value, str) and value:
        return _whole(value, column)
    # pandas turns integers into floats if some are missing.
    if isinstance(value, float) and abs(value) < _EXACT:
        value = int(value) if value.is_integer() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if _is_missing(value):
        raise ValueError(f"{column} is empty")
    raise ValueError(
        f"{column} is {quoted(value)}; it must be text or a whole number"
    )


def microseconds(value: Any) -> int:
    """Returns a time as microseconds since 1970.

    Args:
      value: ISO 8601 text, a date or datetime (UTC if it has no time zone), or
        seconds since 1970 as text or number.

    Raises:
      ValueError: if it is none of these, or seconds before 1990 or after 2100.
    """
    value = _plain(value, "time")
    if type(value) is datetime.date:
        value = value.isoformat()
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = _moment(value)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=datetime.UTC)
        return (value - _EPOCH) // _MICROSECOND
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = quoted("" if value is None else value)
        raise ValueError(f"time is {text}, which is not a valid time")
    if not _FIRST <= value <= _LAST:  # also rejects infinity and NaN
        shown = f"{value:g}" if abs(value) < _EXACT else "too large"
        raise ValueError(
            f"time is {shown}; as seconds since 1970, it must be between 1990 "
            "and 2100"
        )
    return round(value * 1_000_000)


def _moment(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"time is {quoted(text)}; write 2026-01-31T12:00:00Z or seconds "
            "since 1970"
        ) from None


def _places(
    path: str,
    have: Sequence[str],
    columns: Sequence[str],
    optional: Sequence[str],
) -> list[int]:
    """Returns the column indices; -1 for a missing optional column."""
    have = list(have)
    twice = [name for name in (*columns, *optional) if have.count(name) > 1]
    if twice:
        raise UserError(f'{path} has the column "{twice[0]}" more than once.')
    missing = [name for name in columns if name not in have]
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]!r}; it needs "
            f"{', '.join(columns)}, and its columns are: "
            f"{listing(have) or 'none'}."
        )
    extra = next((have.index(name) for name in optional if name in have), -1)
    return [have.index(name) for name in columns] + [extra]


def _csv(path, file, group, columns, optional):
    del group
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    csv.field_size_limit(sys.maxsize)  # the default is 128 KiB
    reader = csv.reader(text, strict=True)
    lines = _records(path, reader)
    _, header = next(lines, (1, []))
    places = _places(path, header, columns, optional)
    for line, cells in lines:
        if len(cells) == len(header):
            yield line, [cells[p] if p >= 0 else None for p in places]
        else:
            yield (
                line,
                f"it has {len(cells)} cells, but the header has {len(header)}",
            )


def _records(path: str, reader) -> Iterator[tuple[int, list[str]]]:
    """Yields first line number and cells of each record; skips empty lines."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: the row has an unclosed quote or text "
                "after a closing quote; double any quote inside a quoted cell."
            ) from error
        if cells:
            yield line, cells


def _json(path, file, group, columns, optional):
    del path, group
    # Invalid bytes become lone surrogates, so that other lines can be read.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape")
    for line, row in enumerate(text, 1):
        if not row.strip():
            continue
        try:
            row.encode()
            cells = json.loads(row)
        except UnicodeEncodeError:
            yield line, "the line is not UTF-8 text"
            continue
        except (ValueError, RecursionError):
            cells = None
        if not isinstance(cells, dict):
            yield line, "the line is not a JSON object"
            continue
        missing = [name for name in columns if name not in cells]
        if missing:
            yield line, f"{missing[0]} is missing"
            continue
        extra = next((cells[name] for name in optional if name in cells), None)
        yield line, [cells[name] for name in columns] + [extra]


def _parquet(path, file, group, columns, optional):
    table = pq.ParquetFile(file)
    names = table.schema_arrow.names
    places = _places(path, names, columns, optional)
    wanted = [names[p] for p in places if p >= 0]
    metadata = table.metadata
    row = 1 + sum(metadata.row_group(g).num_rows for g in range(group))
    # Workers are single-threaded; Arrow threads could outlive the interpreter.
    batches = table.iter_batches(_BATCH, [group], wanted, use_threads=False)
    for batch in batches:
        values = [_values(path, name, batch.column(name)) for name in wanted]
        if places[-1] < 0:
            values.append([None] * len(batch))
        for cells in zip(*values, strict=True):
            yield row, list(cells)
            row += 1


def _values(path: str, name: str, column: pa.Array) -> list[Any]:
    if exact := _NARROW.get(column.type):
        column = column.cast(pa.float64())
        if pc.any(pc.greater_equal(pc.abs(column), exact)).as_py():
            raise UserError(
                f"{path}, column {name}: low-precision floats of {exact} "
                "or more may have been rounded; write text, integers or 64-bit "
                "floats."
            )
    if pa.types.is_timestamp(column.type):
        # Python times have no nanoseconds. Timestamps without a zone are UTC.
        column = column.cast(pa.timestamp("us"), safe=False)
    return column.to_pylist()


@contextlib.contextmanager
def _explained(path: str, file: BinaryIO) -> Iterator[None]:
    """Turns exceptions that readers raise for bad files into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path, file)) from error
    except _DAMAGE as error:
        reason = str(error).strip() or type(error).__name__
        raise UserError(
            f"{path} cannot be read completely: {reason}"
        ) from error


def _not_utf8(path: str, file: BinaryIO) -> str:
    """Returns a message that names the first line that is not UTF-8."""
    with contextlib.suppress(*_DAMAGE):
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.decode(errors="replace").encode() != line:
                return (
                    f"{path}, line {number} is not UTF-8 text; save the file "
                    "again as UTF-8."
                )
    return f"{path} is not UTF-8 text; save the file again as UTF-8."


def row_name(path: str) -> str:
    """Returns the unit of a file's row numbers: "row" or "line"."""
    return "row" if kind(path) == ".parquet" else "line"
