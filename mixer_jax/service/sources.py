"""The sources of a build: sample tables, and files of embeddings.

A source yields frames with `COLUMNS` and a column per field and, for files of
embeddings, an f32 `[n, D]` array. All rows of an item are in the same frame.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mixer_jax.data.tables import roots, rules, table
from mixer_jax.retrieval.sharded import layout, reading
from mixer_jax.runtime import identity, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import boxes, tables
from mixer_jax.runtime.text import quoted
from mixer_jax.service.stores import fields

ITEM, ID, EMBEDDING = "item_id", layout.ID, layout.EMBEDDING
COLUMNS = (ID, ITEM, "image", "text", "category_id", "group")
ROWS = 4096  # rows read and written at once


class Chunk(NamedTuple):
    """Some of the rows; `embeddings` is f32 `[n, D]`, or None to compute it."""

    frame: pd.DataFrame
    embeddings: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Source:
    """The rows to build an index from.

    Attributes:
      path: the table, or the file or folder of embeddings.
      folder: the folder that image paths are relative to.
      total: the number of rows.
      key: identifies the rows.
      images: the names of the images, "" for none; None if they are not known
        in advance.
      kinds: the kinds of the fields, by name.
      dim: the number of elements of the embeddings; 0 if there are none.
      fingerprint: the fingerprint of the model of the embeddings; "" if it is
        not known or there are none.
      frame: the rows of the table; None if there is none.
      embeddings: the file or folder of embeddings; "" if there is none.
      is_album: whether the rows are the pictures of a folder.
    """

    path: pathlib.Path
    folder: pathlib.Path
    total: int
    key: str
    kinds: Mapping[str, str]
    dim: int = 0
    fingerprint: str = ""
    frame: pd.DataFrame | None = None
    embeddings: str = ""
    is_album: bool = False

    def chunks(self) -> Iterator[Chunk]:
        """Yields all rows."""
        if not self.embeddings:
            for frame in _parts(self.frame):
                yield Chunk(frame, None)
        elif self.frame is None:
            yield from _own_rows(self.embeddings, self.kinds)
        else:
            yield from _joined(self.embeddings, self.frame)


def open_source(
    *,
    path: str | os.PathLike | None = None,
    embeddings: str | os.PathLike | None = None,
    split: str = "",
    kinds: Mapping[str, str],
    image_roots: str = "",
) -> Source:
    """Opens and checks the data to build an index from.

    Args:
      path: the sample table; None if `embeddings` has all columns.
      embeddings: the folder that `embed` wrote, or a Parquet file with the
        columns sample_id and embedding; None to embed the table.
      split: the split to index; "" for all.
      kinds: the kinds of the fields, by name; the table has a column for each.
      image_roots: see `table.read_table`.

    Raises:
      UserError: if something is missing, or a row is invalid.
    """
    if path is None and embeddings is None:
        raise UserError(
            "There is nothing to index; name a sample table with --table=FILE, "
            "a folder of pictures with --images=FOLDER, or embeddings with "
            "--embeddings=PATH."
        )
    if split and path is None:
        raise UserError("A split can only be selected from a --table.")
    frame = None
    if path is not None:
        frame = _read_table(pathlib.Path(path), split, kinds, image_roots)
    if embeddings is None:
        key = identity.hash_texts(frame[ID], frame[ITEM])
        folder = table.folder(path)
        return Source(path, folder, len(frame), key, kinds, frame=frame)
    found = _describe(embeddings)
    if frame is not None:
        key = identity.hash_texts([found.key], frame[ID], frame[ITEM])
        folder = table.folder(path)
        found = dataclasses.replace(
            found, path=path, folder=folder, key=key, frame=frame
        )
    return dataclasses.replace(found, kinds=kinds)


def _read_table(
    path: pathlib.Path, split: str, kinds: Mapping[str, str], image_roots: str
) -> pd.DataFrame:
    """Returns the documents of a table, with fields as text."""
    known = dataclasses.replace(
        rules.LAYOUT,
        columns=(*rules.COLUMNS, *kinds),
        optional=(*boxes.COLUMNS, ITEM),
    )
    frame = tables.read(path, known)
    table.validate(frame, roots.rules(table.folder(path), image_roots))
    frame = boxes.join(frame)
    if split:
        frame = table.select(frame, split)
    frame = frame[frame["role"] == table.DOCUMENT]
    if frame.empty:
        where = f"split {split!r} of {path}" if split else path
        raise UserError(f"There are no documents in {where}.")
    _check_fields(frame, kinds)
    frame = frame[[*COLUMNS, *kinds]].copy()
    frame[ITEM] = frame[ITEM].where(frame[ITEM] != "", frame[ID])
    # Rows of an item are written together.
    order = np.argsort(pd.factorize(frame[ITEM])[0], kind="stable")
    return frame.iloc[order]


def _check_fields(frame: pd.DataFrame, kinds: Mapping[str, str]) -> None:
    for name, kind in kinds.items():
        for place, cell in enumerate(frame[name]):
            try:
                fields.read(cell, name, kind, "")
            except UserError:
                (where,) = table.name_rows(frame, [place])
                fields.read(cell, name, kind, where)


def _parts(frame: pd.DataFrame, rows: int = ROWS) -> Iterator[pd.DataFrame]:
    """Yields a frame's rows in parts that do not split an item."""
    items, start = frame[ITEM].to_numpy(object), 0
    while start < len(frame):
        end = min(start + rows, len(frame))
        while end < len(frame) and items[end] == items[end - 1]:
            end += 1
        yield frame.iloc[start:end]
        start = end


def _describe(embeddings: str | os.PathLike) -> Source:
    """Returns a source of embeddings without a table."""
    name = os.fspath(embeddings)
    path = paths.local(name, "A file of embeddings")
    if path.is_dir():
        manifest = layout.read_manifest(path)
        key = identity.hash_json([part["sha256"] for part in manifest["files"]])
        total = manifest[layout.FOLDERS[table.DOCUMENT]]
        made_by = manifest["D"], manifest["fingerprint"]
        return Source(path, path, total, key, {}, *made_by, embeddings=name)
    with _reading(path) as file:
        dim, total = _dim(file, path), file.metadata.num_rows
    key = identity.hash_json([path.stat().st_size, total])
    return Source(path, path.parent, total, key, {}, dim, embeddings=name)


def _reading(path: pathlib.Path) -> pq.ParquetFile:
    if not path.is_file():
        raise UserError(
            f"There are no embeddings at {path}; name the folder that "
            "mixer_jax.embed wrote, or a Parquet file."
        )
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"The embeddings {path} cannot be read: {error}"
        ) from error
    names = file.schema_arrow.names
    absent = [name for name in (ID, EMBEDDING) if name not in names]
    if absent or not file.metadata.num_rows:
        file.close()
        problem = f"has no column {absent[0]}" if absent else "has no rows"
        raise UserError(
            f"The embeddings file {path} {problem}; it needs the columns "
            f"{ID} and {EMBEDDING}."
        )
    return file


def _dim(file: pq.ParquetFile, path: pathlib.Path) -> int:
    first = next(file.iter_batches(1, columns=[EMBEDDING]))
    return _matrix(first.column(0), path).shape[1]


def _matrix(column: pa.Array, path: pathlib.Path) -> np.ndarray:
    """Returns a column of lists of numbers as f32 `[n, D]`."""
    try:
        rows = np.stack(column.to_numpy(zero_copy_only=False))
        rows = rows.astype(np.float32)
        if rows.ndim != 2:
            raise ValueError(f"its shape is {rows.shape}")
        return rows
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The column {EMBEDDING} of {path} must hold lists of numbers, all "
            f"of the same length ({error})."
        ) from error


def _own_rows(name: str, kinds: Mapping[str, str]) -> Iterator[Chunk]:
    """Yields the rows of a folder or a file of embeddings."""
    path, held, done = pathlib.Path(name), None, set()
    for frame, embeddings in _batches(path):
        for column in (*COLUMNS, *kinds):
            if column not in frame:
                frame[column] = ""
        frame[ITEM] = frame[ITEM].where(frame[ITEM] != "", frame[ID])
        _check_fields(frame, kinds)
        part = Chunk(frame[[*COLUMNS, *kinds]], embeddings)
        part = part if held is None else _join(held, part)
        whole, held = _split(part)
        if len(whole.frame):
            _check_new(path, whole.frame, done)
            yield whole
    if held is not None:
        _check_new(path, held.frame, done)
        yield held


def _join(first: Chunk, second: Chunk) -> Chunk:
    frame = pd.concat([first.frame, second.frame], ignore_index=True)
    return Chunk(frame, np.concatenate([first.embeddings, second.embeddings]))


def _split(part: Chunk) -> tuple[Chunk, Chunk]:
    """Returns the rows before the last item, and the last item's rows."""
    items = part.frame[ITEM].to_numpy(object)
    others = np.flatnonzero(items != items[-1])
    end = others[-1] + 1 if len(others) else 0
    return (
        Chunk(part.frame.iloc[:end], part.embeddings[:end]),
        Chunk(part.frame.iloc[end:], part.embeddings[end:]),
    )


def _check_new(path: pathlib.Path, frame: pd.DataFrame, done: set) -> None:
    """Checks that the rows of an item are not scattered."""
    # The rows of a later chunk would replace those of an earlier one.
    items = set(frame[ITEM])
    if again := items & done:
        raise UserError(
            f"The rows of item {quoted(min(again))} in {path} are not "
            f"adjacent; sort the file by {ITEM}, or by {ID} where it is empty."
        )
    done |= items


def _batches(path: pathlib.Path) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Yields columns of texts, and embeddings."""
    if path.is_dir():
        for ids, embeddings in reading.batches(path, table.DOCUMENT):
            yield pd.DataFrame({ID: ids}, dtype=str), embeddings
        return
    with _reading(path) as file:
        for batch in file.iter_batches(ROWS):
            embeddings = _matrix(batch[EMBEDDING], path)
            texts = {
                one: _texts(batch[one])
                for one in batch.schema.names
                if one != EMBEDDING
            }
            yield pd.DataFrame(texts, dtype=str), embeddings


def _texts(column: pa.Array) -> list[str]:
    values = (one.as_py() for one in column)
    return ["" if value is None else str(value) for value in values]


def _joined(name: str, frame: pd.DataFrame) -> Iterator[Chunk]:
    """Yields the rows of a table that have embeddings, with the embeddings."""
    batches = _batches(pathlib.Path(name))
    if frame[ITEM].duplicated().any():
        # The rows of an item may be far apart.
        every = [(part[ID], embeddings) for part, embeddings in batches]
        ids, embeddings = map(np.concatenate, zip(*every, strict=True))
        place = pd.Index(ids).get_indexer(frame[ID])
        for part in _parts(frame.assign(_place=place)[place >= 0]):
            rows = part.pop("_place").to_numpy()
            yield Chunk(part, embeddings[rows])
        return
    where = pd.Index(frame[ID])
    for part, embeddings in batches:
        place = where.get_indexer(part[ID])
        known = place >= 0
        for start in range(0, int(known.sum()), ROWS):
            rows = slice(start, start + ROWS)
            yield Chunk(frame.iloc[place[known][rows]], embeddings[known][rows])
