"""Reads items from the database; see `database` for its tables."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.service.stores.encoding import Loss
from mixer_jax.service.stores.interface import Hit, Item, Vector

# As JSON, because the number of parameters is limited.
_GIVEN = "IN (SELECT value FROM json_each(?))"


class Bare(NamedTuple):
    """A vector without a thumbnail, and the ID and text of its item."""

    number: int
    id: str
    text: str
    content: bytes
    image: str


def stored_value(connection: sqlite3.Connection, key: str, default: Any) -> Any:
    """Returns a value of the table `meta`."""
    row = connection.execute(
        "SELECT value FROM meta WHERE key = ?", [key]
    ).fetchone()
    return default if row is None else json.loads(row[0])


def fields(connection: sqlite3.Connection) -> Mapping[str, str]:
    """Returns the kinds of the declared fields, by name."""
    return stored_value(connection, "fields", {})


def loss(connection: sqlite3.Connection) -> Loss:
    """Returns the loss of all embeddings ever stored."""
    return Loss(*stored_value(connection, "loss", Loss()))


def rows(
    connection: sqlite3.Connection, ids: Sequence[str]
) -> dict[str, tuple]:
    """Returns key, text, group, category and fields of items by ID."""
    found = connection.execute(
        'SELECT id, item, text, "group", category, fields FROM items '
        f"WHERE id {_GIVEN}",
        [_as_json(ids)],
    )
    return {id: tuple(row) for id, *row in found}


def existing(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Returns the subset of IDs that exist."""
    found = connection.execute(
        f"SELECT id FROM items WHERE id {_GIVEN}", [_as_json(ids)]
    )
    return {id for (id,) in found}


def numbers(connection: sqlite3.Connection, id: str) -> list[int]:
    """Returns the numbers of an item's vectors."""
    found = connection.execute(
        f"SELECT number FROM items JOIN vectors USING (item) WHERE id {_GIVEN}",
        [_as_json([id])],
    )
    return [number for (number,) in found]


def contents(
    connection: sqlite3.Connection, ids: Sequence[str]
) -> dict[str, set[bytes]]:
    """Returns the contents of the vectors of existing items."""
    found = connection.execute(
        f"SELECT id, content FROM items JOIN vectors USING (item) "
        f"WHERE id {_GIVEN}",
        [_as_json(ids)],
    )
    by_id: dict[str, set[bytes]] = {}
    for id, content in found:
        by_id.setdefault(id, set()).add(content)
    return by_id


def items(
    connection: sqlite3.Connection,
    ids: Sequence[str],
    decode: Callable[[bytes], np.ndarray],
) -> dict[str, Item]:
    """Returns the existing items by ID; `decode` maps bytes to f32 [D]."""
    vectors: dict[str, list[Vector]] = {}
    found = connection.execute(
        "SELECT id, content, embedding, image, coalesce(thumbnail, x'') "
        "FROM items JOIN vectors USING (item) LEFT JOIN pictures USING (number)"
        f" WHERE id {_GIVEN} ORDER BY place",
        [_as_json(ids)],
    )
    for id, content, blob, image, thumbnail in found:
        one = Vector(content, decode(blob), image, thumbnail)
        vectors.setdefault(id, []).append(one)
    return {
        id: Item(
            id, tuple(vectors[id]), text, group, category, json.loads(values)
        )
        for id, (_, text, group, category, values) in rows(
            connection, ids
        ).items()
    }


def ids_after(
    connection: sqlite3.Connection, last: str, limit: int
) -> list[str]:
    """Returns the first IDs that are greater than `last`."""
    found = connection.execute(
        "SELECT id FROM items WHERE id > ? ORDER BY id LIMIT ?", [last, limit]
    )
    return [id for (id,) in found]


def without_thumbnail(
    connection: sqlite3.Connection, last: int, limit: int
) -> list[Bare]:
    """Returns the first vectors with numbers greater than `last`."""
    found = connection.execute(
        "SELECT number, id, text, content, image FROM vectors "
        "JOIN items USING (item) WHERE number > ? AND number NOT IN "
        "(SELECT number FROM pictures) ORDER BY number LIMIT ?",
        [last, limit],
    )
    return [Bare(*row) for row in found]


def _as_json(ids: Sequence[str]) -> str:
    # SQLite would end an ID at a null character, and find another item.
    return json.dumps([one for one in ids if "\0" not in one])


def hits(
    connection: sqlite3.Connection,
    found: Sequence[Sequence[tuple[int, float]]],
) -> list[list[Hit]]:
    """Returns the hits of each query, given vectors' numbers and cosines."""
    numbers = {number for one in found for number, _ in one}
    rows = connection.execute(
        'SELECT number, id, text, "group", category, fields, image, '
        "EXISTS (SELECT 1 FROM pictures p WHERE p.number = v.number) "
        f"FROM vectors v JOIN items USING (item) WHERE number {_GIVEN}",
        [json.dumps(sorted(numbers))],
    )
    by_number = {number: row for number, *row in rows}

    def hit(number: int, cosine: float) -> Hit:
        id, text, group, category, values, image, has_copy = by_number[number]
        shown = number if image or has_copy else -1
        named = text, group, category, json.loads(values)
        return Hit(id, cosine, *named, shown, image)

    return [[hit(*pair) for pair in one] for one in found]
