"""The nearest items to queries, by their best vectors, with filters."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mixer_jax.search import rows as rows_lib
from mixer_jax.service.stores import conditions, memory, reading

# Minimum number of vectors per search, so that few programs are compiled.
_MIN_WIDTH = 128
_CACHED = 32  # maximum number of filters with cached rows


class Nearest:
    """Searches the vectors in memory and picks the best one of each item."""

    def __init__(self, dim: int, storage: str, mesh: Mesh | None):
        """Starts without vectors; see `refresh`."""
        self._memory = memory.Memory(dim, storage, mesh)
        self._state: Any = None
        self._fields: Mapping[str, str] = {}
        self._cache: dict[tuple[str, str], np.ndarray] = {}

    def refresh(self, connection: sqlite3.Connection, state: Any) -> None:
        """Brings the copy in memory to the state of the transaction.

        Args:
          connection: in a transaction.
          state: a value that changes when the store does.
        """
        if state == self._state:
            return
        self._cache.clear()
        self._memory.refresh(connection)
        self._fields = reading.fields(connection)
        self._state = state

    def search(
        self,
        connection: sqlite3.Connection,
        queries: np.ndarray,
        count: int,
        *,
        where: Mapping[str, Any] | None,
        group_by: str | None,
        without: str | None,
    ) -> list[list[tuple[int, float]]]:
        """Finds the best vectors of the `count` nearest items.

        Args:
          connection: in the transaction of `refresh`.
          queries: f32 `[Q, D]`, unit rows.
          count: the maximum number of items per query.
          where: see `conditions`.
          group_by: a field; only the nearest item of each value is returned.
          without: the ID of an item to leave out.

        Returns:
          For each query, the numbers and cosines of vectors, nearest first.
        """
        allowed = self._allowed(connection, where) if where else None
        if without is not None:
            allowed = self._others(connection, without, allowed)
        keys = self._memory.items
        if group_by is not None:
            keys = self._groups(connection, group_by)
        if not (len(self._memory) and len(queries)):
            return [[] for _ in queries]
        width = min(max(count, _MIN_WIDTH), rows_lib.MAX_K)
        rows, cosines = self._memory.search(queries, width, allowed)
        found = []
        for query, *first in zip(queries, rows, cosines, strict=True):
            best = _first_of_each(keys, *first)
            if len(best) < count and first[0][-1] >= 0:
                best = self._continue(query, count, best, keys, allowed)
            found.append(best[:count])
        numbers = self._memory.numbers
        return [[(int(numbers[r]), c) for r, c in one] for one in found]

    def _continue(
        self,
        query: np.ndarray,
        count: int,
        best: list[tuple[int, float]],
        keys: np.ndarray,
        allowed: np.ndarray | None,
    ) -> list[tuple[int, float]]:
        """Finds further keys until there are at least `count`.

        The nearest vectors may all belong to a few items or groups.
        """
        left = np.ones(len(keys), bool) if allowed is None else allowed.copy()
        new = best
        while len(best) < count and new:
            left &= ~np.isin(keys, keys[[row for row, _ in new]])
            rows, cosines = self._memory.search(
                query[None], rows_lib.MAX_K, left
            )
            new = _first_of_each(keys, rows[0], cosines[0])
            best = best + new
        return best

    def _allowed(
        self, connection: sqlite3.Connection, where: Mapping[str, Any]
    ) -> np.ndarray:
        """Returns the rows that meet conditions, bool `[N]`."""
        term, parameters = conditions.sql(where, self._fields)
        key = term, json.dumps(parameters)
        if key not in self._cache:
            found = connection.execute(
                "SELECT number FROM vectors WHERE item IN "
                f"(SELECT item FROM items WHERE {term})",
                parameters,
            )
            numbers = np.fromiter((row[0] for row in found), np.int64)
            allowed = np.zeros(len(self._memory), bool)
            allowed[self._memory.rows_of(numbers)] = True
            self._remember(key, allowed)
        return self._cache[key]

    def _others(
        self,
        connection: sqlite3.Connection,
        id: str,
        allowed: np.ndarray | None,
    ) -> np.ndarray:
        """Returns the allowed rows without those of an item, bool `[N]`."""
        size = len(self._memory)
        left = np.ones(size, bool) if allowed is None else allowed.copy()
        numbers = np.array(reading.numbers(connection, id), np.int64)
        left[self._memory.rows_of(numbers)] = False
        return left

    def _groups(self, connection: sqlite3.Connection, name: str) -> np.ndarray:
        """Returns a key for each row, int64 `[N]`, equal for equal values.

        An item without the field is a group of its own, with a negative key.
        """
        value, parameters = conditions.value_of(name, self._fields)
        key = "group by", name
        if key not in self._cache:
            found = connection.execute(
                f"SELECT item, dense_rank() OVER (ORDER BY {value}) FROM items "
                f"WHERE {value} IS NOT NULL",
                parameters * 2,
            ).fetchall()
            ranks = dict(found)
            items, place = np.unique(self._memory.items, return_inverse=True)
            codes = [ranks.get(item, -1 - item) for item in items.tolist()]
            self._remember(key, np.array(codes, np.int64)[place])
        return self._cache[key]

    def _remember(self, key: tuple[str, str], value: np.ndarray) -> None:
        if len(self._cache) >= _CACHED:
            self._cache.pop(next(iter(self._cache)))
        self._cache[key] = value


def _first_of_each(
    keys: np.ndarray, rows: np.ndarray, cosines: np.ndarray
) -> list[tuple[int, float]]:
    """Returns the first row of each key, with its cosine."""
    rows = rows[rows >= 0]
    _, first = np.unique(keys[rows], return_index=True)
    first = np.sort(first)
    return list(zip(rows[first].tolist(), cosines[first].tolist(), strict=True))
