"""The interface of an index's stores, and the types that they store.

An item has one or more vectors, for example one per picture. A search compares
the query with each vector, and an item's best vector counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mixer_jax.retrieval.calibration import Calibration

Value = str | float | bool  # a field's value
Where = Mapping[str, Any]


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
      number: the number of the best vector, which `Store.picture` takes; -1 if
        that vector has no picture.
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


class Store(Protocol):
    """Items with their embeddings; all methods are thread-safe.

    Once a method has returned, its writes survive a crash.

    Attributes:
      dim: D, the number of elements of an embedding.
      fingerprint: `bundle.fingerprint` of the model of all embeddings; "" if
        their model is unknown.
      fields: the kinds of the declared fields, by name.
      calibration: maps cosines to probabilities; None for no calibration.
    """

    dim: int
    fingerprint: str
    fields: Mapping[str, str]
    calibration: Calibration | None

    def calibrate(self, calibration: Calibration) -> None:
        """Replaces the calibration."""

    def upsert(
        self, items: Sequence[Item], kinds: Mapping[str, str] | None = None
    ) -> None:
        """Writes items, replacing those with the same IDs; all or none.

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

    def picture(self, number: int) -> Picture | None:
        """Returns the picture of a vector; None if there is no such vector."""

    def iterate(self, size: int) -> Iterator[list[Item]]:
        """Yields all items, in lists of at most `size`."""

    def flush(self) -> None:
        """Writes all logs back to their files."""

    def close(self) -> None:
        """Closes the store."""
