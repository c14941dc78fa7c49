"""Reads CSV files in batches, and writes CSV that reads back unchanged.

Only needs PyArrow. Arrow parses fast but its errors have no line numbers; if it
fails, Python's parser reads the file again to find the invalid line.
"""

import codecs
import csv
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mixer_jax.errors import UserError

BLOCK = 16 << 20  # bytes per batch, and the maximum size of a row

# Python's default limit of a cell, 128 KiB, applies to the whole process.
csv.field_size_limit(sys.maxsize)

# Cells that some reader would alter, strip or parse as the end of a line.
_QUOTED = (
    r'[",\x00-\x1f\x7f\x{85}\x{2028}\x{2029}\x{feff}]'
    r"|^[\s\p{Z}]|[\s\p{Z}]$"
)
# First bytes of files that are not UTF-8 text, whatever their suffix.
_SIGNATURES = (
    (codecs.BOM_UTF32_LE, "UTF-32 text"),
    (codecs.BOM_UTF32_BE, "UTF-32 text"),
    (codecs.BOM_UTF16_LE, "UTF-16 text"),
    (codecs.BOM_UTF16_BE, "UTF-16 text"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip file or a spreadsheet"),
    (b"PAR1", "a Parquet file"),
)


class RecordError(Exception):
    """A malformed record: the line that it starts on, and the reason."""

    def __init__(self, line: int, reason: str):
        super().__init__(line, reason)
        self.line, self.reason = line, reason


def batches(
    path: Path, select: Callable[[Sequence[str], Path], list[str]], block: int
) -> Iterator[tuple[pa.Table, float]]:
    """Yields a file's rows as strings, and the share of the file read so far.

    Args:
      path: the file.
      select: maps the header and the path to the columns to read; may raise.
      block: the bytes per batch.

    Raises:
      UserError: names the file and the line of the error.
    """
    header = _header(path, block)
    columns = select(header, path)
    size = path.stat().st_size
    rows, end = 0, header[-1]
    try:
        with (
            pa.OSFile(str(path)) as file,
            pyarrow.csv.open_csv(
                file,
                pyarrow.csv.ReadOptions(use_threads=False, block_size=block),
                pyarrow.csv.ParseOptions(newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()),
                    include_columns=list(dict.fromkeys((*columns, header[-1]))),
                    strings_can_be_null=False,
                ),
            ) as reader,
        ):
            for batch in reader:
                if batch.num_rows:
                    rows += batch.num_rows
                    end = batch[header[-1]][-1].as_py()
                done = min(file.tell() / size, 1.0)
                yield pa.Table.from_batches([batch]).select(columns), done
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "Empty CSV file" not in str(error):
            _explain(path, header, block)
            raise
    _check_end(path, end, rows)


def encode(batch: pa.RecordBatch | pa.Table) -> str:
    """Returns rows of strings as lines of CSV, with cells quoted as needed."""
    cells = [_quoted(column, batch.num_columns) for column in batch.columns]
    lines = pc.binary_join_element_wise(*cells, ",")
    if (pc.max(pc.binary_length(lines)).as_py() or 0) + 2 > BLOCK:
        raise UserError(
            f"A row of more than {BLOCK} bytes is too long for a CSV file; "
            "name a .parquet file instead."
        )
    return "".join(line + "\n" for line in lines.to_pylist())


def encode_header(names: Sequence[str]) -> str:
    """Returns the header line of a file."""
    row = [pa.array([name], pa.string()) for name in names]
    return encode(pa.RecordBatch.from_arrays(row, [""] * len(row)))


def records(
    lines: Iterable[str], delimiter: str = ",", *, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yields each record's cells and the line it starts on, counted from 1.

    Args:
      lines: lines with their endings, as from a file opened with newline="". A
        lone carriage return ends a line too, as in every CSV reader.
      delimiter: the character between two cells.
      strict: whether an unclosed quote, or text after a closing quote, is an
        error.

    Raises:
      RecordError: if `strict`.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=strict)
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RecordError(start, str(error)) from error
        if cells:  # Empty lines are not records.
            yield start, cells
        start = reader.line_num + 1


def find_lines(path: str | os.PathLike, numbers: Iterable[int]) -> list[int]:
    """Returns the lines that records start on, numbered from 0.

    The header, line 1, is record -1. Quoted cells may span lines.
    """
    numbers = list(numbers)
    wanted, found = set(numbers), {}
    with _open(path) as file:
        for record, (line, _) in enumerate(records(file), start=-1):
            if record in wanted:
                found[record] = line
            if len(found) == len(wanted):
                break
    return [found[number] for number in numbers]


def _open(path: str | os.PathLike) -> io.TextIOBase:
    # `_check_utf8` reports invalid bytes with their line.
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def _header(path: Path, block: int) -> list[str]:
    """Returns the first record, reading at most one block."""
    with open(path, "rb") as file:
        start = file.read(block)
    for mark, kind in _SIGNATURES:
        if start.startswith(mark):
            raise _not_csv(path, kind)
    text = start.decode("utf-8-sig", errors="replace")
    lines = io.StringIO(text, newline="")
    header = next((cells for _, cells in records(lines)), None)
    if header is None:
        raise UserError(f"The table {path} is empty.")
    if any("\0" in name for name in header):
        raise _not_csv(path, "UTF-16 text or a binary file")
    if any("\ufffd" in name for name in header):
        with open(path, "rb") as file:
            _check_utf8(path, file)
    return header


def _not_csv(path: Path, kind: str) -> UserError:
    return UserError(
        f"{path} cannot be read: it is {kind}, and a .csv must be UTF-8 text "
        "with commas between the cells; save it again as CSV UTF-8."
    )


def _quoted(column: pa.Array, columns: int) -> pa.Array:
    # In a table of one column, an unquoted empty cell would be an empty line.
    pattern = f"{_QUOTED}|^$" if columns == 1 else _QUOTED
    inside = pc.replace_substring(column, '"', '""')
    quoted = pc.binary_join_element_wise('"', inside, '"', "")
    return pc.if_else(pc.match_substring_regex(column, pattern), quoted, column)


def _check_end(path: Path, end: str, rows: int) -> None:
    """Raises a `UserError` if the last cell, `end`, lacks its closing quote.

    Arrow silently reads everything after an unclosed quote as one cell.
    """
    raw = b'"' + end.encode().replace(b'"', b'""')
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(-min(len(raw) + 1, size), os.SEEK_END)
        last = file.read()
    before = last[: -len(raw)]
    if not last.endswith(raw) or before not in (b",", b"\n", b"\r"):
        return
    # A last cell that is a quoted line break has the same bytes.
    (line,) = find_lines(path, [rows - 1])
    try:
        with _open(path) as lines:
            for _ in records(
                itertools.islice(lines, line - 1, None), strict=True
            ):
                pass
    except RecordError as error:
        raise UserError(
            f"{path}, line {line}: the row has an unclosed quote."
        ) from error


def _explain(path: Path, header: Sequence[str], block: int) -> None:
    """Raises a `UserError` for the first line that Arrow may have rejected."""
    with open(path, "rb") as file:
        _check_utf8(path, file)
    size = start = 0  # of the record that is being read

    def bounded(lines: Iterable[str]) -> Iterator[str]:
        nonlocal size, start
        for number, line in enumerate(lines, start=1):
            if not size:
                start = number
            if size or line.strip("\r\n"):
                size += len(line)
            if size > block:
                raise UserError(
                    f"{path}, line {start}: the row has more than {block} "
                    "bytes; is there an unclosed quote?"
                )
            yield line

    with _open(path) as file:
        for line, cells in records(bounded(file)):
            size = 0
            if len(cells) != len(header):
                less = "more" if len(cells) > len(header) else "fewer"
                raise UserError(
                    f"{path}, line {line}: the row has {less} cells than its "
                    f"header, {len(cells)} instead of {len(header)}; is there "
                    "a comma at its end, or in an unquoted text?"
                )


def _check_utf8(path: Path, lines: Iterable[bytes]) -> None:
    """Raises a `UserError` for the first line that is not UTF-8."""
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} cannot be read: line {number} is not UTF-8 text "
                f"({error.reason}); save it again as CSV UTF-8."
            ) from error
