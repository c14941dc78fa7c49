"""A store in Milvus."""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mixer_jax.retrieval import calibration as calibration_lib
from mixer_jax.retrieval.calibration import Calibration
from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.service.stores import changes, encoding, fields
from mixer_jax.service.stores.interface import Bare, Hit, Item, Picture, Where
from mixer_jax.service.stores.milvus import (
    generations,
    recall,
    rows,
    schema,
    searching,
)
from mixer_jax.service.stores.milvus.collection import Collection
from mixer_jax.service.stores.milvus.connection import Connection
from mixer_jax.service.stores.milvus.rows import Row

_SCANNED = 1000  # rows read at once
_BARE = ("key", "id", "place", "stamp", "text", "content", "image")


class MilvusStore:
    """Items in a collection of Milvus; implements `interface.Store`.

    Attributes:
      name: the address of the index, for messages.
      folder: the folder that recorded paths are relative to.
      generation: the name of the collection.
      dim: D, the number of elements of an embedding.
      fingerprint: the fingerprint of the model of all embeddings, or "".
      storage: always "f32".
      thumbnails: the side of thumbnails in pixels; 0 for none.
      properties: everything that was stored about the index when it was opened.
    """

    def __init__(
        self, connection: Connection, collection: str, *, is_draft: bool = False
    ):
        """Takes a collection that is loaded; see `MilvusPlace`.

        Args:
          connection: the database; closed by `close`.
          collection: the name of the collection.
          is_draft: whether the collection may be written without being current.
        """
        self._connection, self.generation = connection, collection
        self._rows = Collection(connection, collection)
        self._is_draft, self._is_prepared = is_draft, False
        self.name = connection.address.name
        self.folder = connection.address.folder
        self.properties, _ = self._rows.describe()
        found = self.properties
        self.dim, self.storage = int(found["dim"]), str(found["storage"])
        self.fingerprint = str(found["fingerprint"])
        self.thumbnails = int(found.get("thumbnails", 0))

    @property
    def fields(self) -> Mapping[str, str]:
        """The kinds of the declared fields, by name."""
        return self._rows.describe()[0]["fields"]

    @property
    def state(self) -> str:
        """A digest of the keys and stamps of all rows; reads them all."""
        digest = hashlib.sha256()
        for page in self._rows.scan("", ["key", "stamp"], _SCANNED):
            for row in page:
                digest.update(f"{row['key']} {row['stamp']}\n".encode())
        return digest.hexdigest()

    @property
    def calibration(self) -> Calibration | None:
        """Maps cosines to probabilities; None for no calibration."""
        found = self._rows.describe()[0].get("calibration", "")
        return calibration_lib.loads(found) if found else None

    def calibrate(self, found: Calibration) -> None:
        """Replaces the calibration."""
        with self._writing():
            properties, _ = self._rows.describe()
            self._rows.record({**properties, "calibration": found.dumps()})

    def declare(self, kinds: Mapping[str, str]) -> None:
        """Adds fields.

        Raises:
          UserError: if one is invalid or exists with another kind.
        """
        with self._writing():
            properties, _ = self._rows.describe()
            known = fields.add(kinds, properties["fields"], self.name)
            self._rows.record({**properties, "fields": known})

    def upsert(
        self, items: Sequence[Item], kinds: Mapping[str, str] | None = None
    ) -> None:
        """Writes items, replacing those with the same IDs.

        Large calls are several requests, none of which splits an item.

        Args:
          items: the items.
          kinds: the fields to declare if none are declared yet.

        Raises:
          UserError: if an item is invalid, or an embedding has another length
            or is not finite.
        """
        with self._writing():
            declared = self.fields
            new = {} if declared else fields.declare(kinds or {})
            checked = changes.check(items, declared or new, self.dim)
            made, stale = self._changes(checked)
            if new:
                self.declare(new)
            self._rows.write(made)
            self._rows.remove(stale)

    def _changes(
        self, checked: Sequence[Item]
    ) -> tuple[list[list[Row]], list[str]]:
        """Returns the rows to write, and the keys to delete afterwards."""
        found = self._rows.read([item.id for item in checked])
        made, stale = [], []
        for item in checked:
            before = found.get(item.id, [])
            old = rows.item_of(before)
            merged = rows.merge(item, old)
            if not rows.are_equal(merged, old):
                made.append(rows.make(merged, secrets.randbits(62)))
                kept = {row["key"] for row in made[-1]}
                keys = [row["key"] for row in before]
                stale += [key for key in keys if key not in kept]
        return made, stale

    def delete(self, ids: Sequence[str]) -> int:
        """Removes items; returns how many existed."""
        with self._writing():
            found = self._rows.read(ids, ["key", "id", "place", "vectors"])
            keys = [row["key"] for one in found.values() for row in one]
            self._rows.remove(keys)
            return len(found)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Refuses to write, or to acknowledge a write, to a frozen collection.

        A rebuild freezes the collection before it reads it for the last time.
        It has therefore read what was written before the second check.
        """
        with self._connection.turn():
            self._require_thawed()
            yield
            self._require_thawed()

    def _require_thawed(self) -> None:
        if self._is_draft or not self._rows.describe()[1]:
            return
        if not self.is_current():
            raise UserError(
                f"The index {self.name} has been rebuilt since it was opened; "
                "open it again to change it."
            )
        raise PassingError(
            f"The index {self.name} is being switched to a rebuilt generation; "
            "try again later, or repeat the rebuild if it was interrupted."
        )

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """Returns items, with None for those that do not exist."""
        with self._connection.turn():
            found = self._rows.read(ids)
        return [rows.item_of(found.get(one, [])) for one in ids]

    def contents(self, ids: Sequence[str]) -> dict[str, set[bytes]]:
        """Returns the contents of the vectors of existing items."""
        names = ["id", "place", "vectors", "stamp", "content"]
        with self._connection.turn():
            found = self._rows.read(ids, names)
        return {
            id: {bytes.fromhex(row["content"]) for row in rows.whole(some)}
            for id, some in found.items()
        }

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
        """Finds the nearest items; see `interface.Store`.

        Raises:
          UserError: if a query is invalid, or a field of `where` or `group_by`
            is unknown.
        """
        queries = encoding.check_queries(queries, self.dim)
        with self._connection.turn():
            declared = self.fields if where or group_by else {}
            what = searching.wanted(
                k + offset,
                declared,
                where=where,
                group_by=group_by,
                without=without,
            )
            if not len(queries):
                return []
            found = searching.nearest(self._pages, queries, what)
        least = -np.inf if min_score is None else min_score
        return [
            [hit for hit in one[offset:] if hit.score >= least] for one in found
        ]

    def _pages(
        self, queries: np.ndarray, width: int, expression: str
    ) -> list[searching.Page]:
        return self._rows.search(queries, width, expression, self.properties)

    def count(self) -> int:
        """Returns the number of items."""
        with self._connection.turn():
            # Lite reads the rows that it counts by a filter; most are heads.
            others = self._rows.count(schema.OTHERS)
            return self._rows.count("") - others

    def count_vectors(self) -> int:
        """Returns the number of vectors."""
        return self._rows.count("")

    def images(self, limit: int = -1) -> list[str]:
        """Returns the first paths of pictures without a thumbnail."""
        images: list[str] = []
        for page in self.without_thumbnail(_SCANNED):
            images += [one.image for one in page if one.image]
            if 0 <= limit <= len(images):
                return images[:limit]
        return images

    def without_thumbnail(self, size: int) -> Iterator[list[Bare]]:
        """Yields the vectors without a thumbnail, at most `size` at once."""
        for page in self._rows.scan('thumbnail == ""', _BARE, size):
            valid = self._rows.valid(page)
            yield [
                Bare(
                    row["place"],
                    row["id"],
                    row["text"],
                    bytes.fromhex(row["content"]),
                    row["image"],
                )
                for row in page
                if row["key"] in valid
            ]

    def picture(self, id: str, number: int) -> Picture | None:
        """Returns the picture of an item's vector; None if there is none."""
        (item,) = self.get([id])
        if item is None or not 0 <= number < len(item.vectors):
            return None
        vector = item.vectors[number]
        return Picture(id, vector.image, vector.thumbnail)

    def iterate(self, size: int) -> Iterator[list[Item]]:
        """Yields all items, at most `size` at once."""
        for ids in self.ids(size):
            yield [item for item in self.get(ids) if item is not None]

    def ids(self, size: int) -> Iterator[list[str]]:
        """Yields all IDs, at most `size` at once."""
        for page in self._rows.scan(schema.HEADS, ["id"], size):
            yield [row["id"] for row in page]

    def existing(self, ids: Sequence[str]) -> set[str]:
        """Returns the given IDs that exist."""
        heads = self._rows.get([rows.key(id) for id in ids], ["id"])
        return {head["id"] for head in heads}

    def facts(self) -> dict[str, str]:
        """Returns the kind and the recall of the index, and its collection."""
        properties, _ = self._rows.describe()
        found = {
            "stored as": f"{self.storage}, {properties['index_kind']} index, "
            f"{properties['consistency']} consistency",
            "recall": properties.get("recall", ""),
            "collection": self.generation,
        }
        return {name: value for name, value in found.items() if value}

    def is_current(self) -> bool:
        """Returns whether no other generation has replaced this one."""
        return generations.current(self._connection) == self.generation

    def prepare(self) -> None:
        """Builds the index of a draft, and measures its recall."""
        self.flush()
        properties, _ = self._rows.describe()
        self._rows.build_index(properties)
        if properties["index_kind"] != "FLAT":
            found = {"recall": str(self.measure())}
            self._rows.record(properties | found)
        self._is_prepared = True

    def publish(self, keep: int = 0) -> None:
        """Makes a draft the current generation of its index.

        Args:
          keep: the maximum number of earlier generations to keep; one is
            always kept.
        """
        if not self._is_prepared:
            self.prepare()
        generations.switch(self._connection, self.generation, keep)
        self._is_draft = False

    def measure(self) -> recall.Recall:
        """Returns the recall of the index, after reading all vectors."""
        pages = self._rows.scan("", ["key"], _SCANNED)
        keys = (row["key"] for page in pages for row in page)
        queries = rows.matrix(
            self._rows.get(recall.sample(keys), ["embedding"])
        )
        best = np.full((len(queries), recall.K), -np.inf, np.float32)
        if len(queries):
            pages = self._pages(queries, recall.K, "")
            for row, page in zip(best, pages, strict=True):
                row[: len(page.found)] = [cosine for _, cosine in page.found]
        parts = self._rows.scan("", ["embedding"], _SCANNED)
        return recall.measure(queries, best, map(rows.matrix, parts))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keeps all processes from writing during a block."""
        self._rows.freeze(is_on=True)
        try:
            yield
        finally:
            if self.is_current():
                self._rows.freeze(is_on=False)

    def flush(self) -> None:
        """Makes Milvus write its log back to files."""
        self._connection.call("flush", self.generation, timeout=None)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self) -> "MilvusStore":
        """Returns self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self.close()
