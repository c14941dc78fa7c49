"""Writes an index as a Parquet file."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mixer_jax.runtime import files, paths, progress
from mixer_jax.runtime.errors import UserError
from mixer_jax.service.sources import EMBEDDING, ID, ITEM
from mixer_jax.service.stores import fields
from mixer_jax.service.stores.interface import Item, Value
from mixer_jax.service.stores.local import LocalStore

_ITEMS = 4096  # items written at once
_TYPES = {
    fields.TEXT: pa.string(),
    fields.NUMBER: pa.float64(),
    fields.FLAG: pa.bool_(),
}
_ENDING = ".parquet"


def check_path(out: str | os.PathLike) -> None:
    """Raises a `UserError` unless a Parquet file can be written to `out`."""
    if paths.local(out, "An export").suffix != _ENDING:
        raise UserError(
            f"An index is exported to a Parquet file, but {out} does not end "
            f"in {_ENDING}."
        )
    files.check(out, "The export")


def export(folder: str | os.PathLike, out: str | os.PathLike) -> int:
    """Writes an index to a Parquet file, one row per vector.

    The file has the columns sample_id (the item's ID, and for further vectors
    of an item, the ID and a number), item_id, embedding, image, text, group,
    category_id, and one column per field. `building.build` reads it.

    Returns:
      The number of rows.

    Raises:
      UserError: if there is no index, or the file cannot be written.
    """
    check_path(out)
    with LocalStore.open(folder) as store:
        schema = _schema(store)
        rows = 0

        def save(draft: pathlib.Path) -> None:
            nonlocal rows
            with pq.ParquetWriter(draft, schema) as file:
                for batch in _batches(store, schema):
                    file.write_batch(batch)
                    rows += len(batch)

        files.write(out, save)
        return rows


def _schema(store: LocalStore) -> pa.Schema:
    columns = {
        ID: pa.string(),
        ITEM: pa.string(),
        EMBEDDING: pa.list_(pa.float32(), store.dim),
    }
    columns |= dict.fromkeys(
        ("image", "text", "group", "category_id"), pa.string()
    )
    columns |= {name: _TYPES[kind] for name, kind in store.fields.items()}
    return pa.schema(columns)


def _batches(store: LocalStore, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with progress.show("Exporting items", store.count()) as count:
        for items in store.iterate(_ITEMS):
            yield _batch(items, schema, store.fields)
            count(len(items))


def _batch(
    items: Sequence[Item], schema: pa.Schema, kinds: Mapping[str, str]
) -> pa.RecordBatch:
    rows = [
        (item, place, vector)
        for item in items
        for place, vector in enumerate(item.vectors)
    ]
    flat = np.concatenate([vector.embedding for *_, vector in rows])
    dim = schema.field(EMBEDDING).type.list_size
    columns = [
        [f"{i.id}#{place}" if place else i.id for i, place, _ in rows],
        [item.id for item, *_ in rows],
        pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim),
        [vector.image for *_, vector in rows],
        [item.text for item, *_ in rows],
        [item.group for item, *_ in rows],
        [item.category for item, *_ in rows],
    ]
    columns += [
        [_cell(item.fields.get(name), kind) for item, *_ in rows]
        for name, kind in kinds.items()
    ]
    arrays = [
        pa.array(column, field.type) if isinstance(column, list) else column
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cell(value: Value | None, kind: str) -> Value | None:
    # PyArrow refuses integers that float64 cannot represent.
    if value is None or kind != fields.NUMBER:
        return value
    return float(value)
