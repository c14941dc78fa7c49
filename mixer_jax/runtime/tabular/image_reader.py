"""Reads images from Parquet files, one by one, in bounded memory.

Row groups may be larger than the memory, so only a few rows are read at once.
Rows are read fastest in ascending order, by any number of threads.
"""

import bisect
import collections
import itertools
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mixer_jax.runtime import files
from mixer_jax.runtime.tabular import image_column, references
from mixer_jax.runtime.tabular.references import Reference

_BATCH = 1 << 22  # approximate bytes of images per cursor
_ROWS = 4096  # maximum number of rows per cursor
_CURSORS = 32  # maximum number of open cursors
_BUFFER = 1 << 20  # bytes of a column read at once
_FIRST = "image"  # name of the column tried first


class ChangedError(LookupError):
    """Raised if a row does not hold the image described by a reference."""


def read(reference: Reference) -> bytes:
    """Returns the bytes of an image.

    Raises:
      OSError: if the file cannot be read.
      ChangedError: if the row does not hold this image.
      ArrowException: if the file is damaged.
    """
    file = _READER.find(reference.file)
    for column in file.columns:
        content = _READER.read(file, reference.row, column)
        if references.code(content) == reference.digest:
            return content
    raise ChangedError(
        f"row {reference.row + 1} no longer holds the image that it held "
        "when the table was read"
    )


def is_filled(path: str) -> bool:
    """Returns whether an image file is not empty, or a row is in its file.

    Raises:
      OSError: if the file system fails temporarily; the file may exist.
    """
    reference = references.parse(path)
    if reference is None:
        return files.is_filled(references.file_of(path))
    if not files.is_filled(reference.file):
        return False
    try:
        file = _READER.find(reference.file)
        return reference.row < file.metadata.num_rows
    except (OSError, pa.ArrowException):
        return False


class _File(NamedTuple):
    """Cached properties of a Parquet file.

    Attributes:
      name: the path of the file.
      status: inode, size and time, used to detect changes.
      metadata: the file's footer.
      ends: the row after the last one of each row group.
      columns: the columns that may hold images.
      rows: how many rows to read at once, by column.
    """

    name: str
    status: tuple[int, int, int]
    metadata: pq.FileMetaData
    ends: list[int]
    columns: list[str]
    rows: dict[str, int]


class _Cursor:
    """A position in a row group of a file, with the rows read last."""

    def __init__(self, file: _File, group: int, column: str):
        self.key = (file.name, file.status, group, column)
        self.start = file.ends[group - 1] if group else 0
        self._cells: pa.Array = pa.array([], pa.large_binary())
        self._batches = self._read(file, group, column)

    def _read(
        self, file: _File, group: int, column: str
    ) -> Iterator[pa.RecordBatch]:
        with (
            pa.OSFile(os.fsencode(file.name)) as source,
            pq.ParquetFile(
                source,
                metadata=file.metadata,
                buffer_size=_BUFFER,
                pre_buffer=False,
            ) as opened,
        ):
            if column not in file.rows:
                size = image_column.row_bytes(opened, column)
                file.rows[column] = max(1, min(_ROWS, int(_BATCH / size)))
            yield from opened.iter_batches(
                file.rows[column],
                row_groups=[group],
                columns=[column],
                use_threads=False,
            )

    def get(self, row: int) -> bytes:
        """Returns a cell at `start` or later."""
        while row >= self.start + len(self._cells):
            self.start += len(self._cells)
            batch = next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid("a row group has too few rows")
            self._cells = image_column.to_binary(batch.column(0))
        return self._cells[row - self.start].as_py() or b""

    def close(self) -> None:
        """Closes the file."""
        self._batches.close()


class _Reader:
    """Reads images from any files, with a bounded number of cursors."""

    def __init__(self):
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[str, _File] = (
            collections.OrderedDict()
        )
        self._cursors: list[_Cursor] = []  # most recently used last

    def find(self, name: str) -> _File:
        """Returns a file's properties, read again if the file has changed."""
        found = os.stat(name)
        status = (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._lock:
            file = self._files.pop(name, None)
            if file is None or file.status != status:
                file = _describe(name, status)
            self._files[name] = file
            if len(self._files) > _CURSORS:
                self._files.popitem(last=False)
            return file

    def read(self, file: _File, row: int, column: str) -> bytes:
        """Returns a cell; b"" if it is empty."""
        if row >= file.metadata.num_rows:
            raise ChangedError(f"there is no row {row + 1}")
        group = bisect.bisect_right(file.ends, row)
        key = (file.name, file.status, group, column)
        with self._lock:
            near = [
                cursor
                for cursor in self._cursors
                if cursor.start <= row and cursor.key == key
            ]
            if near:
                cursor = max(near, key=lambda cursor: cursor.start)
                self._cursors.remove(cursor)
            else:
                cursor = _Cursor(file, group, column)
            content = cursor.get(row)  # On an error, drop the cursor.
            self._cursors.append(cursor)
            if len(self._cursors) > _CURSORS:
                self._cursors.pop(0).close()
            return content


def _describe(name: str, status: tuple[int, int, int]) -> _File:
    with pa.OSFile(os.fsencode(name)) as source:
        metadata = pq.read_metadata(source)
    counts = (
        metadata.row_group(group).num_rows
        for group in range(metadata.num_row_groups)
    )
    schema = metadata.schema.to_arrow_schema()
    columns = [a.name for a in schema if image_column.may_hold(a.type)]
    columns.sort(key=lambda column: column != _FIRST)
    ends = list(itertools.accumulate(counts))
    return _File(name, status, metadata, ends, columns, {})


_READER = _Reader()  # shared by all threads, to bound the memory
