"""Columns of a Parquet table that hold either paths or the bytes of images.

Cells of type binary are paths if they are UTF-8 without control characters,
which image files never are. Cells may also be structs of `bytes` and `path`, as
written by Hugging Face `datasets`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_LONGEST = 4096  # maximum bytes of a path
_SAMPLE = 64  # rows read to estimate the size of a row
_BATCH = 1 << 25  # bytes of images in a batch of a table


class Column:
    """A column of paths or images, read batch by batch."""

    def __init__(self, name: str, root: Path):
        """Takes the column's name and the folder of the table."""
        self.name, self._root = name, root
        self._first: dict[bool, str] = {}  # where each kind first occurs

    def convert(
        self, cells: pa.ChunkedArray, part: Path, start: int
    ) -> pa.ChunkedArray | pa.Array:
        """Returns paths, or references to images.

        Args:
          cells: cells of a file, in any type.
          part: the file.
          start: the row of the first cell, from 0.

        Returns:
          Strings; null or "" where there is no image. Cells that are neither
          bytes nor structs are returned unchanged.

        Raises:
          UserError: if the column has both paths and images.
        """
        cells = _plain(_joined(cells))
        if pa.types.is_struct(cells.type):
            content, paths = _fields(cells, f"{part}, column {self.name}")
        elif _is_bytes(cells.type):
            content, paths = cells, None
        else:
            self._note(False, pc.not_equal(_lengths(cells), 0), part, start)
            return cells
        content = to_binary(content)
        filled = pc.greater(pc.binary_length(content), 0).fill_null(False)
        if paths is None:
            if (texts := _texts(content)) is not None:
                self._note(False, filled, part, start)
                return texts
            is_path = pa.array(_are_paths(content))
            self._note(False, pc.and_(filled, is_path), part, start)
            filled = pc.and_not(filled, is_path)
        else:
            named = pc.and_not(pc.not_equal(_lengths(paths), 0), filled)
            self._note(False, named, part, start)
        self._note(True, filled, part, start)
        if not pc.any(filled).as_py():
            return (
                pa.nulls(len(content), pa.string()) if paths is None else paths
            )
        return pc.if_else(filled, self._references(content, part, start), "")

    def _note(
        self, is_image: bool, which: pa.Array, part: Path, start: int
    ) -> None:
        """Records the kind of some cells; raises if there are two kinds."""
        row = pc.index(which, True).as_py()
        if row < 0:
            return
        where = f"{part}, row {start + row + 1}"
        self._first.setdefault(is_image, where)
        if (other := self._first.get(not is_image)) is None:
            return
        kinds = ("the path of an image", "the bytes of an image")
        raise UserError(
            f"{where}, column {self.name}: the cell holds {kinds[is_image]}, "
            f"but {other} holds {kinds[not is_image]}. A column must hold "
            "either paths or bytes; split the rows into two tables, or store "
            "all images in the same way."
        )

    def _references(
        self, content: pa.Array, part: Path, start: int
    ) -> pa.Array:
        file = os.path.relpath(part, self._root)
        try:
            file.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"The file name {file!a} is not UTF-8, which a table with "
                "images as bytes requires; rename the file."
            ) from error
        rows = pa.array(np.arange(start + 1, start + len(content) + 1))
        codes = references.encode(
            [references.digest(cell) for cell in _views(content)]
        )
        return pc.binary_join_element_wise(
            f"{file}#", rows.cast(pa.string()), "@", codes, ""
        )


def batch_rows(file: pq.ParquetFile, column: str, rows: int) -> int:
    """Returns a number of rows per batch that bounds the images' memory.

    Args:
      file: the file.
      column: the column that may hold images.
      rows: the number of rows if the column holds no images.
    """
    if not may_hold(file.schema_arrow.field(column).type):
        return rows
    return max(1, min(rows, int(_BATCH / row_bytes(file, column))))


def may_hold(kind: pa.DataType) -> bool:
    """Returns whether cells of this type may be images."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return "bytes" in names and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def row_bytes(file: pq.ParquetFile, column: str) -> float:
    """Returns an estimate of the largest mean size of a column's rows."""
    means = [1.0]
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = map(group.column, range(group.num_columns))
        size = sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema.split(".")[0] == column
        )
        means.append(size / max(group.num_rows, 1))
    # Equal images may be stored once per row group.
    for batch in file.iter_batches(
        _SAMPLE, columns=[column], use_threads=False
    ):
        means.append(batch.nbytes / max(batch.num_rows, 1))
        break
    return max(means)


def to_binary(cells: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns the bytes of images, in an array with 64-bit offsets."""
    cells = _plain(_joined(cells))
    if pa.types.is_struct(cells.type):
        cells, _ = _fields(cells, "")
    if pa.types.is_fixed_size_binary(cells.type):
        cells = cells.cast(pa.binary())
    return cells.cast(pa.large_binary())


def _plain(cells: pa.Array) -> pa.Array:
    """Returns the cells with dictionary indices replaced by their values."""
    if pa.types.is_dictionary(cells.type):
        return cells.cast(cells.type.value_type)
    return cells


def _fields(cells: pa.Array, where: str) -> tuple[pa.Array, pa.Array]:
    """Returns the fields bytes and path of structs."""
    names = [field.name for field in cells.type]
    if not may_hold(cells.type):
        raise UserError(
            f"{where}: cells are of type {cells.type}; they must be paths, "
            "bytes, or structs of bytes and path."
        )
    content = pc.struct_field(cells, "bytes")
    if "path" not in names:
        return content, pa.nulls(len(cells), pa.string())
    return content, pc.struct_field(cells, "path").cast(pa.string())


def _joined(cells: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(cells, pa.ChunkedArray):
        return cells.combine_chunks()
    return cells


def _lengths(cells: pa.Array) -> pa.Array:
    """Returns the lengths of texts; 1 for cells that are not texts."""
    try:
        return pc.binary_length(cells).fill_null(0)
    except pa.ArrowNotImplementedError:
        return pc.cast(pc.is_valid(cells), pa.int32())


def _texts(content: pa.Array) -> pa.Array | None:
    """Returns the cells as texts if all of them may be paths, else None."""
    try:
        texts = content.cast(pa.large_string())
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return None
    control = pc.match_substring_regex(texts, r"[\x00-\x1f\x7f]")
    if pc.any(control).as_py():
        return None
    return texts.cast(pa.string())


def _views(content: pa.Array) -> Iterator[memoryview]:
    """Yields the bytes of each cell without copying them."""
    _, offsets, data = content.buffers()
    ends = np.frombuffer(offsets, np.int64)[content.offset :]
    ends = ends[: len(content) + 1].tolist()
    view = memoryview(data) if data is not None else memoryview(b"")
    for place in range(len(content)):
        yield view[ends[place] : ends[place + 1]]


def _are_paths(content: pa.Array) -> list[bool]:
    return [_is_path(view) for view in _views(content)]


def _is_path(view: memoryview) -> bool:
    if not view or len(view) > _LONGEST or _CONTROL.search(view):
        return False
    try:
        str(view, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
