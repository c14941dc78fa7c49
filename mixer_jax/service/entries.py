"""Turns the arguments of `Index.upsert` into items with embeddings."""

import io
import os
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mixer_jax.data.images import decoding, pictures
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references
from mixer_jax.runtime.text import quoted
from mixer_jax.service.stores import encoding, fields
from mixer_jax.service.stores.interface import Item, Vector

_SIDE = 256  # pixels; pictures without a file are hashed at this size
Embed = Callable[[list, list[str]], np.ndarray]


class Entry(NamedTuple):
    """One item as passed to `Index.upsert`."""

    id: str
    images: list
    text: str
    vectors: np.ndarray | None
    fields: Mapping[str, Any]
    group: str
    category: str


class Loaded(NamedTuple):
    """An item, and the inputs to embed for its vectors.

    Attributes:
      item: the item; new vectors have no embedding yet.
      pictures: for each of its vectors, the picture to embed, or None.
      is_new: for each of its vectors, whether to embed it.
    """

    item: Item
    pictures: list
    is_new: list[bool]


def check_ids(ids: Sequence[str]) -> list[str]:
    """Returns IDs as a list; raises a `UserError` if one is not a string."""
    if isinstance(ids, str | bytes):
        raise UserError("ids is a single ID; put it in a list: ids=[ID].")
    given = list(ids)
    for one in given:
        if not isinstance(one, str) or not one:
            raise UserError(
                f"The ID {quoted(one)} has type {type(one).__name__}; an ID "
                "must be a non-empty string."
            )
    return given


def align(
    ids: Sequence[str],
    *,
    images: Sequence[Any] | None = None,
    texts: Sequence[str | None] | None = None,
    vectors: Sequence[Any] | None = None,
    fields: Sequence[Mapping[str, Any] | None] | None = None,
    groups: Sequence[str | None] | None = None,
    categories: Sequence[str | None] | None = None,
) -> list[Entry]:
    """Returns one entry per ID.

    Raises:
      UserError: if the arguments have different lengths, or an item has
        no picture, text, or vector.
    """
    names = check_ids(ids)
    if images is not None:
        images = pictures.check_list(images, "images")
    columns = {
        "images": images,
        "texts": texts,
        "vectors": vectors,
        "fields": fields,
        "groups": groups,
        "categories": categories,
    }
    for name, column in columns.items():
        if column is None:
            columns[name] = [None] * len(names)
        elif isinstance(column, str | Mapping):
            raise UserError(f"{name} is not a list; give one per ID.")
        elif len(column) != len(names):
            raise UserError(
                f"There are {len(names)} IDs but {len(column)} {name}; give "
                "one per ID, with None where there is none."
            )
    rows = zip(names, *columns.values(), strict=True)
    return [_entry(*row) for row in rows]


def _entry(
    id: str,
    images: Any,
    text: str | None,
    vectors: Any,
    fields: Mapping[str, Any] | None,
    group: str | None,
    category: str | None,
) -> Entry:
    shown = images if isinstance(images, list | tuple) else [images]
    shown = [one for one in shown if one is not None]
    for one in (text, group, category):
        if one is not None and not isinstance(one, str):
            raise UserError(
                f"Item {quoted(id)} has the text {quoted(one)} of type "
                f"{type(one).__name__}; it must be a string."
            )
    if vectors is not None:
        vectors = np.atleast_2d(np.asarray(vectors, np.float32))
        if shown and len(shown) != len(vectors):
            raise UserError(
                f"Item {quoted(id)} has {len(shown)} pictures but "
                f"{len(vectors)} vectors; give one vector per picture."
            )
    elif not shown and not (text or "").strip():
        raise UserError(f"Item {quoted(id)} has no picture, text, or vector.")
    labels = group or "", category or ""
    return Entry(id, shown, text or "", vectors, fields or {}, *labels)


def kinds(given: Sequence[Entry]) -> dict[str, str]:
    """Returns the kinds of all fields of the entries."""
    found: dict[str, str] = {}
    for entry in given:
        for name, value in entry.fields.items():
            if value is not None and fields.kind_of(value):
                found.setdefault(name, fields.kind_of(value))
    return found


class Loader:
    """Reads the pictures of entries, and makes thumbnails of new ones."""

    def __init__(self, root: pathlib.Path | None, side: int):
        """Stores the settings that all entries share.

        Args:
          root: the folder that stored paths are relative to; None for none.
          side: the side length of thumbnails in pixels; 0 for none.
        """
        self._root, self._side = root, side

    def load(self, entry: Entry, known: Collection[bytes]) -> Loaded:
        """Reads an entry's pictures.

        Args:
          entry: the entry.
          known: the contents of the item's stored vectors.
        """
        parts = [
            self._part(entry, place, known)
            for place in range(self._count(entry))
        ]
        vectors, shown = zip(*parts, strict=True)
        is_new = [
            one.embedding is None and one.content not in known
            for one in vectors
        ]
        item = Item(
            entry.id,
            vectors,
            entry.text,
            entry.group,
            entry.category,
            entry.fields,
        )
        return Loaded(item, list(shown), is_new)

    def _count(self, entry: Entry) -> int:
        if entry.vectors is not None:
            return len(entry.vectors)
        return max(len(entry.images), 1)

    def _part(
        self, entry: Entry, place: int, known: Collection[bytes]
    ) -> tuple[Vector, Any]:
        """Returns a vector of an entry, and the picture to embed for it."""
        given = entry.images[place] if place < len(entry.images) else None
        name, picture, digest = "", None, b""
        if given is not None:
            try:
                name, picture, digest = self._read(given)
            except UserError as error:
                raise UserError(f"Item {quoted(entry.id)}: {error}") from error
        content = content_of(digest, entry.text)
        embedding = None
        if entry.vectors is not None:
            embedding = entry.vectors[place]
            content = encoding.content(content, embedding.tobytes())
        copy = b""
        if self._side and picture is not None and content not in known:
            copy = thumbnail(picture, self._side)
        return Vector(content, embedding, name, copy), picture

    def _read(self, given: Any) -> tuple[str, Any, bytes]:
        """Returns a picture's name, the picture, and a digest of it."""
        if isinstance(given, str | os.PathLike):
            content = decoding.read(given)
            digest = identity.digest(content).tobytes()
            return self._name(given), content, digest
        if isinstance(given, bytes | bytearray | memoryview):
            content = bytes(given)
            return "", content, identity.digest(content).tobytes()
        pixels = pictures.to_pixels(given, _SIDE)
        return "", given, encoding.content(pixels.tobytes())

    def _name(self, given: str | os.PathLike) -> str:
        """Returns a path relative to the root; "" if it is outside."""
        if self._root is None:
            return ""
        file = os.path.abspath(references.file_of(given))
        name = os.path.abspath(os.fspath(given))
        if not file.startswith(f"{self._root}{os.sep}"):
            return ""
        return os.path.relpath(name, self._root)


def content_of(digest: bytes, text: str) -> bytes:
    """Returns the content of a vector.

    Args:
      digest: the digest of the picture's bytes; b"" for no picture.
      text: the item's text.
    """
    return encoding.content(digest, text)


def is_text(content: bytes, text: str) -> bool:
    """Returns whether a vector is the embedding of its item's text alone."""
    return bool(text.strip()) and content == content_of(b"", text)


def thumbnail(picture: pictures.Picture, side: int) -> bytes:
    """Returns a small copy of a picture, as WebP, on a white square."""
    file = io.BytesIO()
    pixels = pictures.to_pixels(picture, side)
    Image.fromarray(pixels).save(file, "webp")
    return file.getvalue()


def make_items(loaded: Sequence[Loaded], embed: Embed) -> list[Item]:
    """Returns the items with the embeddings of their new vectors.

    Args:
      loaded: the items.
      embed: returns the embeddings of pictures and texts, f32 `[n, D]`.
    """
    new = [
        (picture, one.item.text)
        for one in loaded
        for picture, is_new in zip(one.pictures, one.is_new, strict=True)
        if is_new
    ]
    if not new:
        return [one.item for one in loaded]
    rows = iter(embed(*map(list, zip(*new, strict=True))))
    items = []
    for one in loaded:
        vectors = tuple(
            vector._replace(embedding=next(rows)) if is_new else vector
            for vector, is_new in zip(one.item.vectors, one.is_new, strict=True)
        )
        items.append(one.item._replace(vectors=vectors))
    return items
