"""Reads and writes the rows of a collection; see `schema`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax.service.stores.milvus import options, rows, schema, searching
from mixer_jax.service.stores.milvus.connection import Connection
from mixer_jax.service.stores.milvus.rows import Row

_BATCH_BYTES = 8 << 20  # per request; servers accept 64 MiB
_BATCH_ROWS = 1000
_SHOWN = [
    "id",
    "place",
    "stamp",
    "text",
    "group",
    "category",
    "fields",
    "image",
    "pictured",
]
_SEARCH = 10.0  # seconds per search, including pymilvus's retries
_PAUSE = 1.0  # seconds between checks of an index's progress


class Collection:
    """A loaded collection.

    Attributes:
      name: its name.
    """

    def __init__(self, connection: Connection, name: str):
        """Takes the database and the name of the collection."""
        self._connection, self.name = connection, name

    def describe(self) -> tuple[dict[str, Any], bool]:
        """Returns the stored properties, and whether writes are refused."""
        found = self._connection.call("describe_collection", self.name)
        properties = schema.read(found, self._connection.address.name)
        return properties, schema.is_frozen(found)

    def record(self, properties: Mapping[str, Any]) -> None:
        """Stores properties."""
        found = {schema.PROPERTIES: schema.write(properties)}
        self._connection.call("alter_collection_properties", self.name, found)

    def freeze(self, *, is_on: bool) -> None:
        """Makes all processes refuse to write, or allows it again."""
        schema.freeze(self._connection, self.name, is_on=is_on)

    def write(self, items: Sequence[Sequence[Row]]) -> None:
        """Writes the rows of items, in requests that do not split an item."""
        for batch in _batches(items):
            self._connection.call("upsert", self.name, batch)

    def remove(self, keys: Sequence[str]) -> None:
        """Deletes rows."""
        for part in _parts(keys):
            self._connection.call("delete", self.name, part)

    def read(
        self, ids: Sequence[str], names: Sequence[str] = schema.COLUMNS
    ) -> dict[str, list[Row]]:
        """Returns the rows of existing items by ID, heads first.

        Args:
          ids: the IDs.
          names: the columns, with at least id and vectors.
        """
        heads = self.get([rows.key(id) for id in dict.fromkeys(ids)], names)
        more = [
            rows.key(head["id"], place)
            for head in heads
            for place in range(1, head["vectors"])
        ]
        found = {head["id"]: [head] for head in heads}
        for row in self.get(more, names):
            found[row["id"]].append(row)
        return found

    def get(self, keys: Sequence[str], names: Sequence[str]) -> list[Row]:
        """Returns the given columns of the rows with the given keys."""
        return [
            row
            for part in _parts(keys)
            for row in self._connection.call(
                "query",
                self.name,
                ids=part,
                output_fields=list(names),
                consistency_level="Strong",
            )
        ]

    def scan(
        self, expression: str, names: Sequence[str], size: int
    ) -> Iterator[list[Row]]:
        """Yields columns of all rows that match, at most `size` at once."""
        return self._connection.scan(
            self.name,
            filter=expression,
            output_fields=list(names),
            batch_size=size,
            consistency_level="Strong",
        )

    def count(self, expression: str) -> int:
        """Returns the number of rows that match."""
        found = self._connection.call(
            "query",
            self.name,
            filter=expression,
            output_fields=["count(*)"],
            consistency_level="Strong",
        )
        return int(found[0]["count(*)"])

    def search(
        self,
        queries: np.ndarray,
        width: int,
        expression: str,
        properties: Mapping[str, Any],
    ) -> list[searching.Page]:
        """Returns the valid ones among the `width` nearest rows that match.

        Args:
          queries: f32 `[Q, D]`.
          width: the number of rows per query.
          expression: a filter.
          properties: the properties of the index.
        """
        found = self._connection.call(
            "search",
            self.name,
            data=list(queries),
            limit=width,
            filter=expression,
            output_fields=list(_SHOWN),
            anns_field="embedding",
            search_params=options.search(properties, width),
            consistency_level=properties["consistency"],
            timeout=_SEARCH,
        )
        pages = [
            [({"key": h["key"], **h["entity"]}, h["distance"]) for h in hits]
            for hits in found
        ]
        valid = self.valid([row for page in pages for row, _ in page])
        return [
            searching.Page(
                [pair for pair in page if pair[0]["key"] in valid],
                len(page) == width,
            )
            for page in pages
        ]

    def valid(self, found: Sequence[Row]) -> set[str]:
        """Returns the keys of the valid rows."""
        others = {row["id"] for row in found if row["place"]}
        heads = self.get([rows.key(id) for id in others], ["id", "stamp"])
        stamps = {head["id"]: head["stamp"] for head in heads}
        return {
            row["key"]
            for row in found
            if not row["place"] or stamps.get(row["id"]) == row["stamp"]
        }

    def build_index(self, properties: Mapping[str, Any]) -> None:
        """Waits until all flushed rows are in the index."""
        connection = self._connection
        if connection.address.is_lite:
            # Without an index, Lite searches all rows, as FLAT does.
            if properties["index_kind"] == "FLAT":
                return
            if not connection.call("list_indexes", self.name):
                schema.create_index(connection, self.name, properties)
            return
        while connection.call("describe_index", self.name, "embedding").get(
            "pending_index_rows"
        ):
            time.sleep(_PAUSE)


def _parts(values: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), _BATCH_ROWS):
        yield list(values[start : start + _BATCH_ROWS])


def _batches(items: Sequence[Sequence[Row]]) -> Iterator[list[Row]]:
    """Yields rows in batches of limited size that do not split an item."""
    batch: list[Row] = []
    size = 0
    for made in items:
        need = sum(map(rows.size, made))
        is_full = size + need > _BATCH_BYTES
        if batch and (is_full or len(batch) + len(made) > _BATCH_ROWS):
            yield batch
            batch, size = [], 0
        batch, size = [*batch, *made], size + need
    if batch:
        yield batch
