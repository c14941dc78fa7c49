"""The interface of an index's stores, and the types that they store.

An item has one or more vectors, for example one per picture. A search compares
the query with each vector, and an item's best vector counts.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh

from mixer_jax.retrieval.calibration import Calibration
from mixer_jax.runtime.errors import UserError

Value = str | float | bool  # a field's value
Where = Mapping[str, Any]


class StoreError(UserError):
    """A store is damaged or fails, whatever the request."""


class Vector(NamedTuple):
    """An embedding, and the picture that it represents, if any.

    Attributes:
      content: a digest of what was embedded, 16 bytes; see `encoding.content`.
      embedding: f32 `[D]`; None in an upsert to keep the stored embedding of
        the same content.
      image: the picture's path, relative to the folder of the pictures; "" if
        it has none.
      thumbnail: a small copy of the picture, as WebP; b"" if it has none.
    """

    content: bytes
    embedding: np.ndarray | None = None
    image: str = ""
    thumbnail: bytes = b""


class Item(NamedTuple):
    """An item that a search can find.

    Attributes:
      id: unique in its store, not empty.
      vectors: at least one.
      text: the text of the item; "" if it has none.
      group: a coarse label, such as a brand; "" if it has none.
      category: the category ID; "" if unknown.
      fields: values by field name, for filters; see `fields`.
    """

    id: str
    vectors: tuple[Vector, ...]
    text: str = ""
    group: str = ""
    category: str = ""
    fields: Mapping[str, Value] = {}


class Hit(NamedTuple):
    """An item found by a search.

    Attributes:
      id: the item's ID.
      score: the cosine of the query and the item's best vector.
      text: the text of the item.
      group: its group.
      category: its category ID.
      fields: its fields.
      number: identifies the best vector for `Store.picture`; -1 if that vector
        has no picture.
      image: the path of the vector's picture; see `Vector`.
      probability: that the item shows the same thing as the query; None if it
        is not known. Stores leave it out.
    """

    id: str
    score: float
    text: str
    group: str
    category: str
    fields: Mapping[str, Value]
    number: int
    image: str
    probability: float | None = None


class Picture(NamedTuple):
    """The picture of a vector; see `Vector` for `image` and `thumbnail`."""

    id: str
    image: str
    thumbnail: bytes


class Bare(NamedTuple):
    """A vector without a thumbnail, and the ID and text of its item."""

    number: int
    id: str
    text: str
    content: bytes
    image: str


class Store(Protocol):
    """Items with their embeddings; all methods are thread-safe.

    Once a method has returned, its writes survive the death of the process. An
    item is written as a whole or not at all.

    Attributes:
      name: what messages call the index: its folder or its address.
      folder: the folder that recorded paths are relative to.
      dim: D, the number of elements of an embedding.
      fingerprint: `bundle.fingerprint` of the model of all embeddings; "" if
        their model is unknown.
      storage: how embeddings are stored; see `encoding`.
      thumbnails: the side of thumbnails in pixels; 0 for none.
      properties: everything that was stored about the index when it was opened.
    """

    name: str
    folder: pathlib.Path
    dim: int
    fingerprint: str
    storage: str
    thumbnails: int
    properties: Mapping[str, Any]

    @property
    def fields(self) -> Mapping[str, str]:
        """The kinds of the declared fields, by name."""

    @property
    def calibration(self) -> Calibration | None:
        """Maps cosines to probabilities; None for no calibration."""

    def calibrate(self, found: Calibration) -> None:
        """Replaces the calibration."""

    @property
    def generation(self) -> str:
        """The name of this generation of the index."""

    @property
    def state(self) -> Any:
        """A value that changes when any process writes."""

    def declare(self, kinds: Mapping[str, str]) -> None:
        """Adds fields.

        Raises:
          UserError: if one is invalid or exists with another kind.
        """

    def upsert(
        self, items: Sequence[Item], kinds: Mapping[str, str] | None = None
    ) -> None:
        """Writes items, replacing those with the same IDs.

        A stored vector with the same content as a new one is kept.

        Args:
          items: the items.
          kinds: the fields to declare if none are declared yet.
        """

    def delete(self, ids: Sequence[str]) -> int:
        """Removes items; returns how many existed."""

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """Returns items, with None for those that do not exist."""

    def contents(self, ids: Sequence[str]) -> dict[str, set[bytes]]:
        """Returns the contents of the vectors of existing items."""

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Where | None = None,
        offset: int = 0,
        min_score: float | None = None,
        group_by: str | None = None,
        without: str | None = None,
    ) -> list[list[Hit]]:
        """Finds the items nearest to each query.

        Args:
          queries: f32 `[Q, D]`.
          k: the maximum number of items per query.
          where: the items to search; see `conditions`.
          offset: the number of nearest items to leave out.
          min_score: the minimum cosine.
          group_by: a field; only the nearest item of each value is returned.
          without: the ID of an item to leave out, which then does not
            represent its group.
        """

    def count(self) -> int:
        """Returns the number of items."""

    def count_vectors(self) -> int:
        """Returns the number of vectors."""

    def images(self, limit: int = -1) -> list[str]:
        """Returns the first paths of pictures without a thumbnail."""

    def without_thumbnail(self, size: int) -> Iterator[list[Bare]]:
        """Yields the vectors without a thumbnail, at most `size` at once."""

    def picture(self, id: str, number: int) -> Picture | None:
        """Returns the picture of an item's vector; None if there is none.

        Args:
          id: the ID of the item.
          number: see `Hit`.
        """

    def iterate(self, size: int) -> Iterator[list[Item]]:
        """Yields all items, in lists of at most `size`."""

    def ids(self, size: int) -> Iterator[list[str]]:
        """Yields all IDs, in lists of at most `size`."""

    def existing(self, ids: Sequence[str]) -> set[str]:
        """Returns the given IDs that exist."""

    def facts(self) -> dict[str, str]:
        """Returns what `index info` shows about this kind of store."""

    def is_current(self) -> bool:
        """Returns whether no other generation has replaced this one."""

    def prepare(self) -> None:
        """Finishes a draft, so that `publish` is fast."""

    def publish(self, keep: int = 0) -> None:
        """Makes a draft the current generation of its index.

        Args:
          keep: the maximum number of earlier generations to keep for
            `Place.roll_back`.
        """

    def frozen(self) -> AbstractContextManager[None]:
        """Keeps all processes from writing during a block."""

    def flush(self) -> None:
        """Writes all logs back to their files."""

    def close(self) -> None:
        """Closes the store."""

    def __enter__(self) -> "Store": ...

    def __exit__(self, *_: object) -> None: ...


class Place(Protocol):
    """Where an index is, or is to be built; see `places.find`.

    Attributes:
      name: what messages call the index: its folder or its address.
      folder: the folder that recorded paths are relative to.
      disk: the folder that holds the index; None if it is on a server.
    """

    name: str
    folder: pathlib.Path
    disk: pathlib.Path | None

    def check(self, properties: Mapping[str, Any]) -> None:
        """Raises a `UserError` unless the store supports these properties."""

    def exists(self) -> bool:
        """Returns whether there is an index, even if it is damaged."""

    def open(self, mesh: Mesh | None = None, generation: str = "") -> Store:
        """Opens a generation.

        Args:
          mesh: the devices for searches in this process; by default all.
          generation: one of `earlier`; "" for the current one.

        Raises:
          UserError: if there is no index, or it is damaged or in a format that
            this version cannot read.
        """

    def draft(self, properties: Mapping[str, Any]) -> Store:
        """Begins, or continues, a generation that no reader sees yet.

        Args:
          properties: `dim`, `storage`, `fingerprint`, `thumbnails`, `fields`,
            and anything else that identifies the work.
        """

    def folder_of_model(self) -> pathlib.Path:
        """Returns the folder for a model inside the index.

        Raises:
          UserError: if the index cannot hold a model.
        """

    def earlier(self) -> list[str]:
        """Returns the generations to return to, latest first."""

    def roll_back(self) -> str:
        """Makes the first of `earlier` the current generation.

        Returns:
          The name of that generation.

        Raises:
          UserError: if there is none.
        """

    def owned(self) -> AbstractContextManager[None]:
        """Keeps others from building an index here during a block."""

    def held(self) -> AbstractContextManager[None]:
        """Keeps others from rebuilding the existing index during a block."""
