"""Reads CSV files in batches, and writes CSV that reads back unchanged.

Needs only PyArrow and NumPy. Arrow parses fast but its errors have no line
numbers; if it fails, Python's parser reads the file again to find the invalid
line.
"""

import codecs
import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import parts

BLOCK = 16 << 20  # bytes per batch, and the maximum size of a row

# Cells may exceed Python's default limit of 128 KiB, which is process-wide.
csv.field_size_limit(sys.maxsize)

# Cells that some readers would alter or split unless they are quoted.
_QUOTED = (
    r'[",\x00-\x1f\x7f\x{85}\x{2028}\x{2029}\x{feff}]'
    r"|^[\s\p{Z}]|[\s\p{Z}]$"
)
# Bytes that may precede an opening quote or follow a closing one.
_BOUNDS = np.isin(np.arange(256), list(b',\n\r"'))
_SCANNED = 1 << 16  # bytes searched for quotes at once
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
    """A malformed record: its first line and the reason."""

    def __init__(self, line: int, reason: str):
        super().__init__(line, reason)
        self.line, self.reason = line, reason


def batches(
    path: Path, select: Callable[[Sequence[str], Path], list[str]], block: int
) -> Iterator[tuple[pa.Table, float]]:
    """Yields a table's rows as strings, and the share of it read so far.

    Args:
      path: a file, or a folder of parts. A folder named `a=1` adds column `a`.
      select: maps the column names and the part to the columns to read; may
        raise.
      block: the bytes per batch.

    Raises:
      UserError: if a line is invalid; the message names file and line.
    """
    files = parts.find(path)
    sizes = [part.stat().st_size for part in files]
    total, before = max(sum(sizes), 1), 0
    for part, size in zip(files, sizes, strict=True):
        parts.check(part)
        # Spark writes an empty file for a partition without rows.
        if size or not any(sizes):
            partition = parts.Partition(path, part)
            for rows, done in _part(part, partition, select, block):
                yield rows, min((before + done) / total, 1.0)
        before += size


def _part(
    path: Path,
    partition: parts.Partition,
    select: Callable[[Sequence[str], Path], list[str]],
    block: int,
) -> Iterator[tuple[pa.Table, int]]:
    """Yields the rows of one file, and the number of bytes read so far."""
    header = _header(path, block)
    wanted = select(partition.names(header), path)
    columns = [name for name in wanted if name in header]
    _check_quotes(path, block)
    try:
        with (
            pa.OSFile(os.fsencode(path)) as file,  # supports any file name
            pyarrow.csv.open_csv(
                file,
                pyarrow.csv.ReadOptions(use_threads=False, block_size=block),
                pyarrow.csv.ParseOptions(newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()),
                    include_columns=columns,
                    strings_can_be_null=False,
                ),
            ) as reader,
        ):
            for batch in reader:
                rows = pa.Table.from_batches([batch])
                yield partition.complete(rows, wanted), file.tell()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "Empty CSV file" not in str(error):
            _explain(path, header, block)
            raise


def encode(batch: pa.RecordBatch | pa.Table) -> str:
    """Returns rows of strings as lines of CSV, with cells quoted as needed."""
    cells = [_quoted(column, batch.num_columns) for column in batch.columns]
    lines = pc.binary_join_element_wise(*cells, ",")
    if (pc.max(pc.binary_length(lines)).as_py() or 0) + 2 > BLOCK:
        raise UserError(
            f"A row of more than {BLOCK} bytes is too long for a CSV file; "
            "choose a .parquet file instead."
        )
    return "".join(line + "\n" for line in lines.to_pylist())


def encode_header(names: Sequence[str]) -> str:
    """Returns the header line of a file."""
    row = [pa.array([name], pa.string()) for name in names]
    return encode(pa.RecordBatch.from_arrays(row, [""] * len(row)))


def records(
    lines: Iterable[str], delimiter: str = ",", *, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yields each record's cells and the number of its first line, from 1.

    Args:
      lines: lines with their endings, as from a file opened with newline="". A
        lone carriage return ends a line too, as in every CSV reader.
      delimiter: the character between two cells.
      strict: whether an unclosed quote, or text after a closing quote, is an
        error.

    Raises:
      RecordError: for such an error if `strict`.
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


def name_lines(path: Path, numbers: Sequence[int]) -> list[str]:
    """Returns the file and the first line (from 1) of each record.

    Args:
      path: a file, or a folder of parts.
      numbers: records, from 0; -1 is the header of the first part.

    Raises:
      KeyError: if there is no such record.
    """
    wanted, names, start = set(numbers), {}, 0
    for part in parts.find(path):
        record = -1
        with _open(part) as file:
            for record, (line, _) in enumerate(records(file), start=-1):
                if start + record in wanted:
                    names.setdefault(start + record, f"{part}, line {line}")
                if len(names) == len(wanted):
                    return [names[number] for number in numbers]
        start += record + 1
    return [names[number] for number in numbers]


def find_kind(start: bytes) -> str:
    """Returns the kind of a file that is not UTF-8 text; "" if unknown."""
    kinds = (kind for mark, kind in _SIGNATURES if start.startswith(mark))
    return next(kinds, "")


def _open(path: str | os.PathLike) -> io.TextIOBase:
    # `_check_utf8` reports invalid bytes and their line number.
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def _header(path: Path, block: int) -> list[str]:
    """Returns the first record, reading at most one block."""
    with open(path, "rb") as file:
        start = file.read(block)
    if kind := find_kind(start):
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
        f"{path} cannot be read: it is {kind}, but a .csv file must be "
        "comma-separated UTF-8 text; save it again as CSV UTF-8."
    )


def _quoted(column: pa.Array, columns: int) -> pa.Array:
    # In a table of one column, an unquoted empty cell would be an empty line.
    pattern = f"{_QUOTED}|^$" if columns == 1 else _QUOTED
    inside = pc.replace_substring(column, '"', '""')
    quoted = pc.binary_join_element_wise('"', inside, '"', "")
    return pc.if_else(pc.match_substring_regex(column, pattern), quoted, column)


def _check_quotes(path: Path, block: int) -> None:
    """Raises a `UserError` if a quote is unclosed or has text after it.

    Arrow accepts both, and reads everything up to the next quote as one cell.
    """
    if _quotes_are_paired(path):
        return
    try:
        # A quote inside an unquoted cell is an ordinary character.
        for _ in _bounded_records(path, block, strict=True):
            pass
    except RecordError as error:
        problem = "an unclosed quote"
        if "expected after" in error.reason:
            problem += " or text after a closing quote"
        raise UserError(
            f"{path}, line {error.line}: the row has {problem}; "
            'double every quote inside a cell, as in "12"" pipe".'
        ) from error


def _quotes_are_paired(path: Path) -> bool:
    """Returns whether each quote opens or closes a cell or is in a `""`."""
    is_open, before = 0, b"\n"
    with open(path, "rb") as file:
        # Skip a byte order mark, which may precede an opening quote.
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        while block := file.read(_SCANNED):
            after = file.peek(1)[:1] or b"\n"
            data = np.frombuffer(before + block + after, np.uint8)
            quotes = np.flatnonzero(data[1:-1] == ord('"')) + 1
            opening, closing = quotes[is_open::2], quotes[1 - is_open :: 2]
            if not _BOUNDS[data[opening - 1]].all():
                return False
            if not _BOUNDS[data[closing + 1]].all():
                return False
            is_open = (is_open + len(quotes)) % 2
            before = block[-1:]
    return not is_open


def _explain(path: Path, header: Sequence[str], block: int) -> None:
    """Raises a `UserError` for the first line that Arrow may have rejected."""
    with open(path, "rb") as file:
        _check_utf8(path, file)
    for line, cells in _bounded_records(path, block):
        if len(cells) != len(header):
            amount = "more" if len(cells) > len(header) else "fewer"
            raise UserError(
                f"{path}, line {line}: the row has {amount} cells than the "
                f"header, {len(cells)} instead of {len(header)}; is there a "
                "comma at the end of the row or in an unquoted cell?"
            )


def _bounded_records(
    path: Path, block: int, *, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yields a file's `records`; raises if one is longer than a block."""
    size = start = 0  # length and first line of the current record

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
        for record in records(bounded(file), strict=strict):
            size = 0
            yield record


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
