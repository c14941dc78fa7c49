"""Writes items to the database; see `database` for its tables."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.runtime.text import quoted
from mixer_jax.service.stores import encoding, fields, reading
from mixer_jax.service.stores.interface import Item, Vector


class _New(NamedTuple):
    """A vector to store: its item's ID and key, and its place in the item."""

    id: str
    key: int
    vector: Vector
    place: int


def check(
    items: Sequence[Item], declared: Mapping[str, str], dim: int
) -> list[Item]:
    """Returns valid items with unit embeddings, keeping the last one per ID.

    Raises:
      UserError: names the first item that is invalid.
    """
    checked = {}
    for item in items:
        _check_texts(item)
        if not item.vectors:
            raise UserError(f"Item {quoted(item.id)} has no vector.")
        values = fields.check(item.id, item.fields, declared)
        checked.pop(item.id, None)
        # Equal pictures of an item would give equal vectors.
        vectors = {one.content: one for one in reversed(item.vectors)}
        vectors = tuple(reversed(vectors.values()))
        checked[item.id] = item._replace(vectors=vectors, fields=values)
    _check_embeddings(list(checked.values()), dim)
    return list(checked.values())


def _check_texts(item: Item) -> None:
    if not isinstance(item.id, str) or not item.id:
        raise UserError(
            f"An item has the ID {quoted(item.id)}; an ID must be a non-empty "
            "string."
        )
    values = [one for one in item.fields.values() if isinstance(one, str)]
    for text in (item.id, item.text, item.group, item.category, *values):
        if not fields.is_storable(text):
            raise UserError(
                f"Item {quoted(item.id)} has a text that cannot be stored, "
                f"{quoted(text)}; remove null characters and lone surrogates."
            )


def _check_embeddings(items: Sequence[Item], dim: int) -> None:
    for item in items:
        for vector in item.vectors:
            given = vector.embedding
            if given is None:
                continue
            if np.shape(given) != (dim,):
                raise UserError(
                    f"The embedding of item {quoted(item.id)} has the shape "
                    f"{np.shape(given)}, but embeddings of this index have "
                    f"{dim} elements."
                )
            if not np.isfinite(given).all() or not np.any(given):
                raise UserError(
                    f"The embedding of item {quoted(item.id)} is zero or not "
                    "finite."
                )


def upsert(
    connection: sqlite3.Connection, items: Sequence[Item], storage: str
) -> encoding.Loss:
    """Writes checked items; returns the loss of the new embeddings."""
    known = reading.rows(connection, [item.id for item in items])
    keys = {item.id: _write_row(connection, item, known) for item in items}
    stored = _stored(connection, [row[0] for row in known.values()])
    added = []
    for item in items:
        key = keys[item.id]
        left = stored.get(key, {})
        for place, vector in enumerate(item.vectors):
            if vector.content in left:
                _update(connection, vector, place, *left.pop(vector.content))
            else:
                added.append(_New(item.id, key, vector, place))
        _remove(connection, [number for number, *_ in left.values()])
    return _add(connection, added, storage)


def delete(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Removes items; returns how many existed."""
    known = reading.rows(connection, ids)
    keys = json.dumps([row[0] for row in known.values()])
    for table in ("vectors", "items"):
        connection.execute(
            f"DELETE FROM {table} WHERE item IN "
            "(SELECT value FROM json_each(?))",
            [keys],
        )
    return len(known)


def _write_row(
    connection: sqlite3.Connection, item: Item, known: Mapping[str, tuple]
) -> int:
    """Writes the row of an item if it is new or changed; returns its key."""
    # SQLite before 3.45 does not decode escapes in names.
    values = json.dumps(item.fields, sort_keys=True, ensure_ascii=False)
    row = item.text, item.group, item.category, values
    if item.id not in known:
        return connection.execute(
            'INSERT INTO items (id, text, "group", category, fields) '
            "VALUES (?, ?, ?, ?, ?)",
            [item.id, *row],
        ).lastrowid
    key, *before = known[item.id]
    if tuple(before) != row:
        connection.execute(
            'UPDATE items SET text = ?, "group" = ?, category = ?, fields = ? '
            "WHERE item = ?",
            [*row, key],
        )
    return key


def _stored(
    connection: sqlite3.Connection, keys: Sequence[int]
) -> dict[int, dict[bytes, tuple]]:
    """Returns number, place, image, thumbnail by item key and content."""
    rows = connection.execute(
        "SELECT item, content, number, place, image, coalesce(thumbnail, x'') "
        "FROM vectors LEFT JOIN pictures USING (number) "
        "WHERE item IN (SELECT value FROM json_each(?))",
        [json.dumps(list(keys))],
    )
    found: dict[int, dict[bytes, tuple]] = {}
    for key, content, *row in rows:
        found.setdefault(key, {})[content] = tuple(row)
    return found


def _update(
    connection: sqlite3.Connection,
    vector: Vector,
    place: int,
    number: int,
    old_place: int,
    image: str,
    thumbnail: bytes,
) -> None:
    """Writes the place and picture of a stored vector, if they have changed."""
    if (place, vector.image) != (old_place, image):
        connection.execute(
            "UPDATE vectors SET place = ?, image = ? WHERE number = ?",
            [place, vector.image, number],
        )
    if vector.thumbnail and vector.thumbnail != thumbnail:
        connection.execute(
            "INSERT OR REPLACE INTO pictures VALUES (?, ?)",
            [number, vector.thumbnail],
        )


def _remove(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    connection.executemany(
        "DELETE FROM vectors WHERE number = ?", [(one,) for one in numbers]
    )


def _add(
    connection: sqlite3.Connection,
    added: Sequence[_New],
    storage: str,
) -> encoding.Loss:
    for id, _, vector, _ in added:
        if vector.embedding is None:
            raise PassingError(
                f"Item {quoted(id)} was changed by another process while it "
                "was being written; repeat the command."
            )
    if not added:
        return encoding.Loss()
    unit = normalize(np.stack([one.vector.embedding for one in added]))
    blobs = encoding.encode(unit, storage)
    for (_, key, vector, place), blob in zip(added, blobs, strict=True):
        number = connection.execute(
            "INSERT INTO vectors (item, content, embedding, image, place) "
            "VALUES (?, ?, ?, ?, ?)",
            [key, vector.content, blob, vector.image, place],
        ).lastrowid
        if vector.thumbnail:
            connection.execute(
                "INSERT INTO pictures VALUES (?, ?)", [number, vector.thumbnail]
            )
    return encoding.Loss.measure(unit, blobs, storage)
