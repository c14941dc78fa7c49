"""Results of a neighbor search, fetched while devices continue."""

import collections
from collections.abc import Iterator

import jax
import numpy as np

_AHEAD = 1  # blocks queued on devices while results are fetched


def nothing(count: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns zeros as (index int64, cosine f32), each `[count, k]`."""
    return np.zeros((count, k), np.int64), np.zeros((count, k), np.float32)


class Answer:
    """The neighbors of N rows, filled in as devices find them.

    Attributes:
      rows: f32 `[N, C]`.
      index: int64 `[N, k]`.
      cosine: f32 `[N, k]`.
    """

    def __init__(self, rows: np.ndarray, k: int):
        """Allocates the results: k neighbors per row of f32 `[N, C]`."""
        self.rows = rows
        self.index, self.cosine = nothing(len(rows), k)
        self._begun = collections.deque()
        self._doubted = []

    @property
    def k(self) -> int:
        """Number of neighbors per row."""
        return self.index.shape[1]

    def blocks(
        self, size: int, chosen: np.ndarray | None = None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Iterates over all rows, or the chosen ones, in blocks.

        Yields:
          The block's index, the indices of its rows, and the rows f32
          `[size, C]`; the last block is padded with zeros.
        """
        chosen = np.arange(len(self.rows)) if chosen is None else chosen
        for number, start in enumerate(range(0, len(chosen), size)):
            these = chosen[start : start + size]
            asked = np.zeros((size, self.rows.shape[1]), np.float32)
            asked[: len(these)] = self.rows[these]
            yield number, these, asked

    def put(self, these: np.ndarray, found: tuple[jax.Array, ...]) -> None:
        """Queues device results: index, cosine, and whether each is certain."""
        self._begun.append((these, found))
        if len(self._begun) > _AHEAD:
            self._fetch()

    def _fetch(self) -> None:
        these, found = self._begun.popleft()
        index, cosine, sure = (x[: len(these)] for x in jax.device_get(found))
        self.index[these], self.cosine[these] = index, cosine
        self._doubted.append(these[~sure])

    def in_doubt(self) -> np.ndarray:
        """Waits for queued results; returns the indices of uncertain rows."""
        while self._begun:
            self._fetch()
        doubted, self._doubted = self._doubted, []
        return np.concatenate(doubted)
