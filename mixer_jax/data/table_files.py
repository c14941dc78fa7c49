"""Sample tables in files, read batch by batch in bounded memory.

Whole tables are read by it too (`table.read_table`), so a table is the same
and has the same faults however it is read.
"""

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from mixer_jax.data import rules
from mixer_jax.errors import UserError

ROWS = 65_536  # of Parquet in a batch
# Bytes of CSV in a batch; a row must fit into one.
BLOCK = 4 << 20
_BUFFER = 1 << 20  # bytes of a column of Parquet that are read at once
_INDEX = "__index_level_"  # what pandas calls a frame's index in Parquet


class Batch(NamedTuple):
    """Some rows of a table.

    Attributes:
      rows: columns as `rules.COLUMNS`, all strings, "" where empty; the index
        is the rows' number in the table, from 0.
      done: the share of the file that is read, 0 to 1.
    """

    rows: pd.DataFrame
    done: float


def batches(
    path: str | os.PathLike, rows: int = ROWS, block: int = BLOCK
) -> Iterator[Batch]:
    """Yields a table's rows in order, a batch at a time.

    Args:
      path: a `.csv` (UTF-8, commas) or `.parquet` file.
      rows: how many make a batch of Parquet.
      block: how many bytes of CSV make a batch.

    Raises:
      UserError: if the file is missing or cannot be read, or its columns are
        not `rules.COLUMNS`; cells are not checked.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no sample table at {path}.")
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(
            f"The sample table {path} must be a .csv or a .parquet file."
        )
    made = (
        _parquet(path, rows) if path.suffix == ".parquet" else _csv(path, block)
    )
    start = 0
    try:
        for columns, done in made:
            frame = _frame(columns, path)
            frame.index = pd.RangeIndex(start, start + len(frame))
            start += len(frame)
            yield Batch(frame, done)
    except UserError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"The sample table {path} cannot be read: {error}"
        ) from error


def name_records(path: str | os.PathLike, records: Sequence[int]) -> list[str]:
    """Says where records, numbered from 0, stand: file and line or row.

    A record of a CSV is named by the line it starts on; the header is line 1.
    """
    path = str(path)
    if path.endswith(".csv"):
        lines = _lines(path, records)
        return [f"{path}, line {lines[record]}" for record in records]
    where = f"{path}, row" if path else "row"
    return [f"{where} {record + 1}" for record in records]


def _parquet(path: Path, rows: int) -> Iterator[tuple[pa.Table, float]]:
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        names = [
            name
            for name in file.schema_arrow.names
            if not name.startswith(_INDEX)
        ]
        rules.check_columns(names, path)
        total, done = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(rows, columns=list(rules.COLUMNS)):
            done += batch.num_rows
            yield pa.Table.from_batches([batch]), done / total


def _csv(path: Path, block: int) -> Iterator[tuple[pa.Table, float]]:
    size = path.stat().st_size
    try:
        header = next((cells for _, cells in _records(path)), None)
        if header is None:
            raise UserError(f"The sample table {path} is empty.")
        rules.check_columns(header, path)
        with (
            pa.OSFile(str(path)) as file,
            pyarrow.csv.open_csv(
                file,
                pyarrow.csv.ReadOptions(use_threads=False, block_size=block),
                pyarrow.csv.ParseOptions(newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()),
                    strings_can_be_null=False,
                ),
            ) as reader,
        ):
            rows, end = 0, ""
            for batch in reader:
                if batch.num_rows:
                    rows += batch.num_rows
                    end = batch[header[-1]][-1].as_py()
                done = min(file.tell() / size, 1.0)
                yield pa.Table.from_batches([batch]), done
        _check_end(path, end, rows)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        _say_undecodable(path)
        _say_ragged(path, len(header))
        if "straddl" in str(error):
            raise UserError(
                f"The sample table {path} has a row of more than {block} "
                "bytes; is there a quote without its end?"
            ) from error
        raise


def _check_end(path: Path, end: str, rows: int) -> None:
    """Raises a `UserError` if the last cell, `end`, lacks its closing quote.

    Arrow takes all that follows such a quote as one cell, and says nothing.
    """
    raw = b',"' + end.encode().replace(b'"', b'""')
    with open(path, "rb") as file:
        file.seek(-min(len(raw), path.stat().st_size), os.SEEK_END)
        if file.read() != raw:
            return
    (where,) = name_records(path, [rows - 1])
    raise UserError(f"{where}: the row has a quote without its end.")


def _say_undecodable(path: Path) -> None:
    """Raises a `UserError` at the first line that is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"The sample table {path} cannot be read: line {number} is "
                    f"not UTF-8 text ({error.reason})."
                ) from error


def _say_ragged(path: Path, columns: int) -> None:
    """Raises a `UserError` at the first row of another number of cells."""
    for line, cells in _records(path):
        if len(cells) != columns:
            less = "more" if len(cells) > columns else "fewer"
            raise UserError(
                f"{path}, line {line}: the row has {less} cells than its "
                f"header, {len(cells)} instead of {columns}; is there a comma "
                "at its end, or in an unquoted text?"
            )


def _records(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Yields the line that each record starts on, and its cells.

    The header is the first; empty lines are none.
    """
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            start = 1
            for cells in reader:
                if cells:
                    yield start, cells
                start = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _lines(path: str, records: Sequence[int]) -> dict[int, int]:
    """Finds the lines that records start on; quoted cells may span lines."""
    wanted, found = set(records), {}
    for record, (line, _) in enumerate(_records(path), start=-1):
        if record in wanted:
            found[record] = line
        if len(found) == len(wanted):
            break
    return found


def as_text(column: pa.ChunkedArray | pa.Array, where: str) -> pa.Array:
    """Returns cells as they would stand in a CSV; "" for a null.

    Args:
      column: strings, numbers or categories.
      where: file and column, for a message.

    Raises:
      UserError: if they are something else.
    """
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowNotImplementedError as error:
        raise UserError(
            f"{where}: its cells are of type {column.type}; they must be "
            "strings or numbers."
        ) from error


def _frame(columns: pa.Table, path: Path) -> pd.DataFrame:
    texts = {
        name: as_text(columns[name], f"{path}, column {name}")
        for name in rules.COLUMNS
    }
    return pa.table(texts).to_pandas()
