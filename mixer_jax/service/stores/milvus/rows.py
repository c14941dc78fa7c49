"""Items as rows of a collection; see `schema`."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.runtime.text import quoted
from mixer_jax.service.stores.interface import Hit, Item, Vector
from mixer_jax.service.stores.milvus import schema

Row = dict[str, Any]


def key(id: str, place: int = 0) -> str:
    """Returns the primary key of an item's vector."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass"))
    return f"{digest.hexdigest()[:32]}-{place:06d}"


def make(item: Item, stamp: int) -> list[Row]:
    """Returns the rows of an item whose vectors all have embeddings.

    Raises:
      UserError: if a text or a thumbnail is too long for Milvus.
    """
    rows = []
    for place, vector in enumerate(item.vectors):
        row = {
            "key": key(item.id, place),
            "id": item.id,
            "place": place,
            "vectors": len(item.vectors),
            "stamp": stamp,
            "text": item.text,
            "group": item.group,
            "category": item.category,
            "fields": dict(item.fields),
            "content": vector.content.hex(),
            "image": vector.image,
            "thumbnail": base64.b64encode(vector.thumbnail).decode(),
            "pictured": bool(vector.image or vector.thumbnail),
            "embedding": np.asarray(vector.embedding, np.float32),
        }
        _check(row)
        rows.append(row)
    return rows


def _check(row: Row) -> None:
    for name, value in row.items():
        if isinstance(value, str) and len(value.encode()) > schema.TEXT_BYTES:
            remedy = "make thumbnails smaller, with --thumbnails"
            raise UserError(
                f"The {name} of item {quoted(row['id'])} is too long for "
                f"Milvus, which stores at most {schema.TEXT_BYTES} bytes; "
                f"{remedy if name == 'thumbnail' else 'shorten it'}."
            )


def whole(rows: Sequence[Row]) -> list[Row]:
    """Returns the valid rows of an item in their order; [] if one is missing.

    Args:
      rows: rows of one item, in any order, including invalid ones.
    """
    by_place = {row["place"]: row for row in rows}
    if 0 not in by_place:
        return []
    head = by_place[0]
    found = [by_place.get(place) for place in range(head["vectors"])]
    valid = [row for row in found if row and row["stamp"] == head["stamp"]]
    return valid if len(valid) == len(found) else []


def item_of(rows: Sequence[Row]) -> Item | None:
    """Returns the item of some rows; None if one is missing; see `whole`."""
    found = whole(rows)
    if not found:
        return None
    head = found[0]
    return Item(
        head["id"],
        tuple(_vector(row) for row in found),
        head["text"],
        head["group"],
        head["category"],
        _values(head),
    )


def _vector(row: Row) -> Vector:
    return Vector(
        bytes.fromhex(row["content"]),
        np.asarray(row["embedding"], np.float32),
        row["image"],
        base64.b64decode(row["thumbnail"]),
    )


def _values(row: Row) -> Mapping[str, Any]:
    return dict(row["fields"] or {})


def hit(row: Row, cosine: float) -> Hit:
    """Returns the hit for a valid row."""
    named = row["text"], row["group"], row["category"], _values(row)
    number = row["place"] if row["pictured"] else -1
    return Hit(row["id"], cosine, *named, number, row["image"])


def merge(item: Item, old: Item | None) -> Item:
    """Returns a checked item to write, with unit embeddings.

    Args:
      item: the item; vectors of stored contents keep their embeddings, and
        their thumbnails if they have no new ones.
      old: the stored item; None if there is none.

    Raises:
      PassingError: if an embedding is missing.
    """
    stored = {one.content: one for one in old.vectors} if old else {}
    vectors = []
    for vector in item.vectors:
        kept = stored.get(vector.content)
        if kept is not None:
            copy = vector.thumbnail or kept.thumbnail
            vectors.append(kept._replace(image=vector.image, thumbnail=copy))
        elif vector.embedding is None:
            raise PassingError(
                f"Item {quoted(item.id)} was changed by another process while "
                "it was being written; repeat the command."
            )
        else:
            unit = normalize(np.asarray(vector.embedding, np.float32)[None])[0]
            vectors.append(vector._replace(embedding=unit))
    return item._replace(vectors=tuple(vectors))


def are_equal(item: Item, old: Item | None) -> bool:
    """Returns whether a merged item equals the stored one."""
    if old is None or _without_embeddings(item) != _without_embeddings(old):
        return False
    pairs = zip(item.vectors, old.vectors, strict=True)
    return all(one.embedding is other.embedding for one, other in pairs)


def _without_embeddings(item: Item) -> Item:
    vectors = (vector._replace(embedding=None) for vector in item.vectors)
    return item._replace(vectors=tuple(vectors))


def size(row: Row) -> int:
    """Returns the approximate number of bytes of a row in a request."""
    texts = sum(len(one) for one in row.values() if isinstance(one, str))
    return 2 * texts + row["embedding"].nbytes + 1000


def matrix(found: Sequence[Row]) -> np.ndarray:
    """Returns the embeddings of rows, f32 `[n, D]`."""
    return np.array([row["embedding"] for row in found], np.float32)
