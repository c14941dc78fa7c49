"""Reads Parquet tables: a file, or a folder of parts as written by Spark.

Needs only PyArrow.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import image_column, parts

ROWS = 65_536  # per batch
_BUFFER = 1 << 20  # bytes of a column read at once
_INDEX = "__index_level_"  # prefix of the columns of a pandas index
_ENDS = (b"PAR1", b"PARE")  # magic bytes at a file's end; PARE if encrypted


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
    files = parts.find(path)
    column = image_column.Column(images, parts.parent(path))
    for number, part in enumerate(files):
        parts.check(part)
        try:
            for batch, done in _part(path, part, select, rows, column):
                yield batch, (number + done) / len(files)
        except (OSError, pa.ArrowException) as error:
            raise UserError(_unreadable(path, part, error)) from error


def name_rows(path: Path, rows: Sequence[int]) -> list[str]:
    """Returns the file and row (from 1) of each table row (from 0)."""
    if not path.is_dir():
        return [f"{path}, row {row + 1}" for row in rows]
    names, start = {}, 0
    for part in parts.find(path):
        with _open(part) as file:
            end = start + pq.read_metadata(file).num_rows
        names |= {
            row: f"{part}, row {row - start + 1}"
            for row in rows
            if start <= row < end
        }
        start = end
    return [names[row] for row in rows]


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
    partition = parts.Partition(path, part)
    with (
        _open(part) as source,
        pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as file,
    ):
        inside = [
            name
            for name in file.schema_arrow.names
            if not name.startswith(_INDEX)
        ]
        wanted = select(partition.names(inside), part)
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
            yield partition.complete(table, wanted), done / total
