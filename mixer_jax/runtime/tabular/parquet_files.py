"""Reads Parquet tables: a file, or a folder of parts as written by Spark.

Needs only PyArrow.
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
from mixer_jax.runtime.tabular import image_column
from mixer_jax.runtime.text import quoted

ROWS = 65_536  # per batch
_BUFFER = 1 << 20  # bytes of a column read at once
_INDEX = "__index_level_"  # prefix of the columns of a pandas index
_ENDS = (b"PAR1", b"PARE")  # magic bytes at a file's end; PARE if encrypted
# Folders in which other kinds of tables record which parts are valid.
_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
_NULL = "__HIVE_DEFAULT_PARTITION__"
# Integers of this size or more may have been rounded in these types.
_EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}


class NotTextError(UserError):
    """Error for a cell that is not text; `row` is its row, from 0."""

    def __init__(self, where: str, row: int, problem: str):
        super().__init__(f"{where}: {problem}")
        self.row, self.problem = row, problem


def parts(path: Path) -> list[Path]:
    """Returns the files of a table in order.

    Files whose names start with "." or "_", such as `_SUCCESS`, are not parts.
    Links to folders are followed, except those to a folder that contains the
    table; a folder with two links to it is read under both names, like a file.

    Raises:
      UserError: if a folder has no parts, cannot be listed, is still being
        written, or may hold parts that are no longer valid.
    """
    if not path.is_dir():
        return [path]
    if (path / "_temporary").is_dir():
        raise UserError(
            f"The table {path} is not complete: it contains a folder "
            "_temporary, which Spark removes once all parts are written."
        )
    for log, kind in _LOGS.items():
        if (path / log).is_dir():
            raise UserError(
                f"The table {path} is a {kind} table, whose folder may contain "
                "rows that were deleted or replaced; write its rows as plain "
                "Parquet files to another folder."
            )
    found = []
    for folder, folders, names in os.walk(
        path, followlinks=True, onerror=_unlisted
    ):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if name[0] not in "._" and not _is_above(here / name, path)
        )
        found += [here / name for name in names if name[0] not in "._"]
    if not found:
        raise UserError(f"The table {path} is a folder without Parquet files.")
    return sorted(found)


def folder(path: str | os.PathLike) -> Path:
    """Returns the folder of a table; image paths are relative to it."""
    path = Path(path)
    # A folder of Parquet files may be named "." or "..".
    if path.name in ("", ".."):
        path = Path(os.path.realpath(path))
    return path.parent


def batches(
    path: Path,
    select: Callable[[Sequence[str], Path], list[str]],
    rows: int,
    images: str = "",
) -> Iterator[tuple[pa.Table, float]]:
    """Yields a table's rows, and the share of its files read so far.

    Args:
      path: a file, or a folder of parts. A folder named `a=1` adds column `a`.
      select: maps the column names and the part to the columns to read; may
        raise.
      rows: the rows per batch.
      images: the column whose cells may be the bytes of images; these are
        replaced by references, see `image_column`.

    Raises:
      UserError: if a part is not a Parquet file or `select` rejects it.
    """
    files = parts(path)
    column = image_column.Column(images, folder(path))
    for number, part in enumerate(files):
        if part.exists() and not part.is_file():
            raise UserError(f"{part} cannot be read: it is not a regular file.")
        try:
            for batch, done in _part(path, part, select, rows, column):
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
        with _open(part) as file:
            end = start + pq.read_metadata(file).num_rows
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
      NotTextError: if the column has another type, or a cell is not UTF-8.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_duration(column.type):
            # Arrow would write the number but drop the unit.
            raise pa.ArrowNotImplementedError(str(column.type))
        if pa.types.is_floating(column.type):
            text = _float_text(column)
        else:
            text = column.cast(pa.string())
            text.validate(full=True)  # Parquet strings may hold any bytes.
    except pa.ArrowNotImplementedError as error:
        kind = f"cells are of type {column.type}"
        problem = f"{kind}; they must be strings or numbers."
        raise NotTextError(where, 0, problem) from error
    except pa.ArrowInvalid as error:
        problem = "a cell is not UTF-8 text."
        raise NotTextError(where, _find_bytes(column), problem) from error
    if pa.types.is_decimal(column.type):
        text = pc.replace_substring_regex(text, r"\.0+$", "")
        # Arrow writes a zero with nine decimals as 0E-9, for example.
        text = pc.replace_substring_regex(text, r"^0E-\d+$", "0")
    return text.fill_null("")


def lossy(column: pa.Array | pa.ChunkedArray) -> tuple[int, str] | None:
    """Finds the first float that is not an exact integer.

    Returns:
      The row, and why its cell cannot be an ID; None if there is none.
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


def _is_above(folder: Path, table: Path) -> bool:
    """Returns whether a folder of a table links to a folder above it."""
    if not folder.is_symlink():
        return False
    inside = len(folder.parents) - len(table.parents)
    target = folder.resolve()
    above = (one.resolve() for one in folder.parents[:inside])
    return any(one.is_relative_to(target) for one in above)


def _unlisted(error: OSError) -> NoReturn:
    # By default, `os.walk` skips a folder that it cannot list.
    raise UserError(
        f"{error.filename} cannot be read: {error.strerror}."
    ) from error


def _unreadable(path: Path, part: Path, error: Exception) -> str:
    """Returns why a part cannot be read."""
    try:
        with open(part, "rb") as file:
            file.seek(-len(_ENDS[0]), os.SEEK_END)
            if file.read() in _ENDS:
                return f"{part} cannot be read: {error}"
    except OSError as reason:
        if reason.errno != errno.EINVAL:  # The file is too short.
            return f"{part} cannot be read: {reason.strerror}."
    where = f"; every file in the folder {path} must be one" * (part != path)
    return f"{part} cannot be read: it is not a complete Parquet file{where}."


def _open(part: Path) -> pa.NativeFile:
    return pa.OSFile(os.fsencode(part))  # supports any file name


def _part(
    path: Path,
    part: Path,
    select: Callable[[Sequence[str], Path], list[str]],
    rows: int,
    images: image_column.Column,
) -> Iterator[tuple[pa.Table, float]]:
    """Yields the rows of one file, and the share of the file read so far."""
    fixed = _partition(part.relative_to(path) if part != path else Path())
    with (
        _open(part) as source,
        pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as file,
    ):
        inside = [
            name
            for name in file.schema_arrow.names
            if not name.startswith(_INDEX)
        ]
        wanted = select([*inside, *(a for a in fixed if a not in inside)], part)
        read = [name for name in wanted if name in inside]
        total, done = max(file.metadata.num_rows, 1), 0
        if images.name in read:
            rows = image_column.batch_rows(file, images.name, rows)
        for batch in file.iter_batches(rows, columns=read, use_threads=False):
            table = pa.Table.from_batches([batch])
            if images.name in read:
                cells = images.convert(table[images.name], part, done)
                place = table.column_names.index(images.name)
                table = table.set_column(place, images.name, cells)
            done += batch.num_rows
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
    """Raises a `UserError` if a file's cells contradict its folder's name."""
    cells = as_text(column, f"{part}, column {name}")
    other = pc.index(pc.equal(cells, value), False).as_py()
    if other >= 0:
        raise UserError(
            f"{part}, column {name}: a cell is {quoted(cells[other].as_py())}, "
            f"but the folder's name says {quoted(value)}; move the file, or "
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
