"""Reads Parquet tables: a file, or a folder of parts as written by Spark.

Only needs PyArrow.
"""

import errno
import os
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted

ROWS = 65_536  # per batch
_BUFFER = 1 << 20  # bytes of a column read at once
_INDEX = "__index_level_"  # prefix of the columns of a pandas index
_ENDS = (b"PAR1", b"PARE")  # last bytes of a file; of an encrypted one
_NULL = "__HIVE_DEFAULT_PARTITION__"
# Integers of this size or more may have been rounded in these types.
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}


class NotTextError(UserError):
    """Error for a cell that is not UTF-8; `row` is its row, from 0."""

    def __init__(self, where: str, row: int):
        super().__init__(f"{where}: a cell is not UTF-8 text.")
        self.row = row


def parts(path: Path) -> list[Path]:
    """Returns the files of a table in order.

    Files whose names start with "." or "_", such as `_SUCCESS`, are not parts.

    Links to folders are followed, except those to a folder that contains them.

    Raises:
      UserError: if a folder has no parts, is still being written, cannot be
        listed, or is there under two names.
    """
    if not path.is_dir():
        return [path]
    if (path / "_temporary").is_dir():
        raise UserError(
            f"The table {path} is not complete: it holds a folder _temporary, "
            "which Spark removes when all parts are written."
        )
    found, seen = [], {}
    for folder, folders, names in os.walk(
        path, onerror=_refuse, followlinks=True
    ):
        here = os.path.realpath(folder)
        twin = seen.setdefault(here, folder)
        if twin != folder:
            folders.clear()
            if Path(folder).is_relative_to(twin):
                continue
            raise UserError(
                f"The table {path} holds a folder twice, as {twin} and as "
                f"{folder}; remove one of these links."
            )
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        found += [Path(folder, name) for name in names if name[0] not in "._"]
    if not found:
        raise UserError(f"The table {path} is a folder without Parquet files.")
    return sorted(found)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}.")


def batches(
    path: Path, select: Callable[[Sequence[str], Path], list[str]], rows: int
) -> Iterator[tuple[pa.Table, float]]:
    """Yields a table's rows, and the share of its files read so far.

    Args:
      path: a file, or a folder of parts. A folder name `a=1` adds a column.
      select: maps the column names and the part to the columns to read; may
        raise.
      rows: the rows per batch.

    Raises:
      UserError: if a part is not a Parquet file or `select` rejects it.
    """
    files = parts(path)
    for number, part in enumerate(files):
        if part.exists() and not part.is_file():
            raise UserError(f"{part} cannot be read: it is not a regular file.")
        try:
            for batch, done in _part(path, part, select, rows):
                yield batch, (number + done) / len(files)
        except (OSError, pa.ArrowException) as error:
            raise UserError(_unreadable(path, part, error)) from error


def name_rows(path: Path, rows: Sequence[int]) -> list[str]:
    """Returns the file and row (from 1) of each table row (from 0)."""
    if not path.is_dir():
        return [f"{path}, row {row + 1}" for row in rows]
    names, files = {}, parts(path)
    start = 0
    for part in files:
        end = start + pq.read_metadata(part).num_rows
        names |= {
            row: f"{part}, row {row - start + 1}"
            for row in rows
            if start <= row < end
        }
        start = end
    return [names[row] for row in rows]


def as_text(column: pa.Array | pa.ChunkedArray, where: str) -> pa.Array:
    """Returns cells as they would be in a CSV; "" for a null.

    Floats with integer values become integers: 12, not 12.0.

    Args:
      column: strings, numbers or categories.
      where: file and column, for the error message.

    Raises:
      UserError: if the column has another type.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_floating(column.type):
            text = _float_text(column)
        else:
            text = column.cast(pa.string())
            text.validate(full=True)  # Parquet strings may hold any bytes.
    except pa.ArrowNotImplementedError as error:
        raise UserError(
            f"{where}: cells are of type {column.type}; they must be strings "
            "or numbers."
        ) from error
    except pa.ArrowInvalid as error:
        raise NotTextError(where, _find_bytes(column)) from error
    if pa.types.is_decimal(column.type):
        text = pc.replace_substring_regex(text, r"\.0+$", "")
        # Arrow's notation of a zero with many decimals.
        text = pc.replace_substring_regex(text, r"^0E-\d+$", "0")
    return text.fill_null("")


def lossy(column: pa.Array | pa.ChunkedArray) -> tuple[int, str] | None:
    """Finds the first float that is not an exact integer.

    Returns:
      The row and why it cannot be an ID; None if all cells can.
    """
    if not pa.types.is_floating(column.type):
        return None
    exact = _EXACT[column.type]
    column = column.cast(pa.float64())
    bad = pc.invert(_is_whole(column, exact))
    bad = pc.and_(bad.fill_null(False), pc.invert(pc.is_nan(column)))
    row = pc.index(bad.fill_null(False), True).as_py()
    if row < 0:
        return None
    value = column[row].as_py()
    if abs(value) >= exact:
        return row, f"{value:g} is too large a float to be exact"
    return row, f"{value:g} is a float that is not an integer"


def _find_bytes(column: pa.Array | pa.ChunkedArray) -> int:
    """Returns the row of the first cell that is not UTF-8."""
    for row, cell in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            (cell or b"").decode()
        except UnicodeDecodeError:
            return row
    return 0


def _float_text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    wide = column.cast(pa.float64())
    whole = _is_whole(wide, 2**53).fill_null(False)
    number = pc.if_else(whole, wide, 0.0).cast(pa.int64()).cast(pa.string())
    text = pc.if_else(whole, number, column.cast(pa.string()))
    return pc.if_else(pc.is_nan(wide), None, text)


def _is_whole(column: pa.ChunkedArray, limit: int) -> pa.ChunkedArray:
    return pc.and_(
        pc.equal(pc.floor(column), column), pc.less(pc.abs(column), limit)
    )


def _unreadable(path: Path, part: Path, error: Exception) -> str:
    """Returns why a part cannot be read."""
    try:
        with open(part, "rb") as file:
            file.seek(-len(_ENDS[0]), os.SEEK_END)
            if file.read() in _ENDS:
                return f"{part} cannot be read: {error}"
    except OSError as reason:
        if reason.errno != errno.EINVAL:  # shorter than the signature
            return f"{part} cannot be read: {reason.strerror}."
    where = f"; in the folder {path} every file must be" * (part != path)
    return f"{part} cannot be read: it is no complete Parquet file{where}."


def _part(
    path: Path,
    part: Path,
    select: Callable[[Sequence[str], Path], list[str]],
    rows: int,
) -> Iterator[tuple[pa.Table, float]]:
    """Yields the rows of one file, and the share of the file read so far."""
    fixed = _partition(part.relative_to(path) if part != path else Path())
    with pq.ParquetFile(part, buffer_size=_BUFFER, pre_buffer=False) as file:
        inside = [
            name
            for name in file.schema_arrow.names
            if not name.startswith(_INDEX)
        ]
        wanted = select([*inside, *(a for a in fixed if a not in inside)], part)
        read = [name for name in wanted if name in inside]
        total, done = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(rows, columns=read, use_threads=False):
            done += batch.num_rows
            table = pa.Table.from_batches([batch])
            for name in set(wanted) & set(fixed):
                if name in inside:
                    _check_partition(table[name], name, fixed[name], part)
                    continue
                cells = pa.repeat(pa.scalar(fixed[name]), batch.num_rows)
                table = table.append_column(name, cells)
            yield table.select(wanted), done / total


def _check_partition(
    column: pa.ChunkedArray, name: str, value: str, part: Path
) -> None:
    """Raises a `UserError` if a file's cells are not what its folder says."""
    cells = as_text(column, f"{part}, column {name}")
    other = pc.index(pc.equal(cells, value), False).as_py()
    if other >= 0:
        raise UserError(
            f"{part}, column {name}: a cell is {quoted(cells[other].as_py())}, "
            f"and the folder's name says {quoted(value)}; move the file, or "
            "rename the folder so that its name has no '='."
        )


def _partition(part: Path) -> dict[str, str]:
    """Returns the columns encoded in folder names, as in Hive."""
    columns = {}
    for name in part.parts[:-1]:
        key, equals, value = name.partition("=")
        if equals:
            text = "" if value == _NULL else urllib.parse.unquote(value)
            columns[key] = text
    return columns
