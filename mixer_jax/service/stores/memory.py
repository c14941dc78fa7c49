"""The embeddings of a store in device memory, kept up to date."""

import sqlite3
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from mixer_jax.runtime import progress
from mixer_jax.search import rows as rows_lib
from mixer_jax.service.stores import database, encoding

_BATCH = 1 << 16  # vectors read at once
_QUIET = 1 << 18  # maximum number of vectors loaded without showing progress
_SPARE = 8  # reserve room for 1/8 more rows
_FEW = 1024  # up to this many removed rows never cause a reload


class Memory:
    """Exact search over a store's vectors, in a copy of them on the devices.

    A row is a vector's position in this copy.

    Attributes:
      numbers: int64 `[N]`, ascending, the number of each row's vector,
        including removed ones.
      items: int64 `[N]`, the key of each row's item.
    """

    def __init__(self, dim: int, storage: str, mesh: Mesh | None):
        """Starts without vectors; see `refresh`."""
        self._dim, self._storage, self._mesh = dim, storage, mesh
        self._clear()

    def _clear(self) -> None:
        self._rows: rows_lib.Rows | None = None  # until there are vectors
        self.numbers = np.zeros(0, np.int64)
        self.items = np.zeros(0, np.int64)
        self._seen = 0, 0  # the last number and the last removal
        self._removed = 0

    def __len__(self) -> int:
        """Returns the number of rows, including removed ones."""
        return len(self.numbers)

    def refresh(self, connection: sqlite3.Connection) -> bool:
        """Applies all changes; returns whether there were any.

        Args:
          connection: in a transaction; the copy then has its state.
        """
        now = database.last_numbers(connection)
        if now == self._seen:
            return False
        try:
            self._apply(connection)
        except BaseException:
            # Half of the changes may have been applied; load everything again.
            self._clear()
            raise
        self._seen = now
        return True

    def _apply(self, connection: sqlite3.Connection) -> None:
        gone = _fetch(
            connection,
            "SELECT number FROM removals WHERE sequence > ? AND number <= ?",
            [self._seen[1], self._seen[0]],
        )
        removed = self._removed + len(gone)
        if removed > max(_FEW, len(self) // 2):
            self._clear()
        elif len(gone):
            self._rows.remove(self.rows_of(gone))
            self._removed = removed
        self._append(connection)

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows int64 `[Q, k]` and cosines; see `search.rows`."""
        return self._rows.search(queries, k, allowed=allowed)

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the rows of vectors, which must be in memory."""
        return np.searchsorted(self.numbers, numbers)

    def _append(self, connection: sqlite3.Connection) -> None:
        last = self._seen[0] if len(self) else 0
        where = "FROM vectors WHERE number > ?"
        (total,) = connection.execute(
            f"SELECT count(*) {where}", [last]
        ).fetchone()
        if not len(self):
            # Reserve room for additions: growing recompiles programs.
            room = total + total // _SPARE
            self._rows = rows_lib.Rows(self._dim, self._mesh, capacity=room)
        if total < _QUIET:
            for part in _vectors(connection, where, last):
                self._add(*part)
            return
        with progress.show("Loading vectors", total) as count:
            for part in _vectors(connection, where, last):
                self._add(*part)
                count(len(part[0]))

    def _add(
        self, numbers: list[int], items: list[int], blobs: list[bytes]
    ) -> None:
        vectors = encoding.decode(b"".join(blobs), self._dim, self._storage)
        self._rows.append(vectors)
        self.numbers = np.concatenate([self.numbers, numbers])
        self.items = np.concatenate([self.items, items])


def _vectors(
    connection: sqlite3.Connection, where: str, last: int
) -> Iterator[tuple]:
    """Yields numbers, items and embeddings, in the order of the numbers."""
    found = connection.execute(
        f"SELECT number, item, embedding {where} ORDER BY number", [last]
    )
    while part := found.fetchmany(_BATCH):
        yield tuple(zip(*part, strict=True))


def _fetch(
    connection: sqlite3.Connection, query: str, parameters: list
) -> np.ndarray:
    """Returns a column of integers, int64 `[n]`."""
    found = connection.execute(query, parameters)
    return np.fromiter((row[0] for row in found), np.int64)
