"""Answers of a search for neighbours, gathered while devices go on."""

import collections
from collections.abc import Iterator

import jax
import numpy as np

_AHEAD = 1  # blocks that devices have to do while results are fetched


def nothing(count: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Index int64 `[count, k]` and cosine f32 `[count, k]`, all zero."""
    return np.zeros((count, k), np.int64), np.zeros((count, k), np.float32)


class Answer:
    """The neighbours of N rows, as devices find them.

    Attributes:
      rows: f32 `[N, C]`.
      index: int64 `[N, k]`.
      cosine: f32 `[N, k]`.
    """

    def __init__(self, rows: np.ndarray, k: int):
        """Nothing is known yet of the k neighbours of f32 `[N, C]` rows."""
        self.rows = rows
        self.index, self.cosine = nothing(len(rows), k)
        self._begun = collections.deque()
        self._doubted = []

    @property
    def k(self) -> int:
        """How many neighbours a row has."""
        return self.index.shape[1]

    def blocks(
        self, size: int, chosen: np.ndarray | None = None
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Goes through all rows, or the chosen ones, in blocks.

        Yields:
          The number of the block, its rows' places, and the rows f32
          `[size, C]`; zeros follow the last.
        """
        chosen = np.arange(len(self.rows)) if chosen is None else chosen
        for number, start in enumerate(range(0, len(chosen), size)):
            these = chosen[start : start + size]
            asked = np.zeros((size, self.rows.shape[1]), np.float32)
            asked[: len(these)] = self.rows[these]
            yield number, these, asked

    def put(self, these: np.ndarray, found: tuple[jax.Array, ...]) -> None:
        """Takes what devices are about to find: index, cosine, whether sure."""
        self._begun.append((these, found))
        if len(self._begun) > _AHEAD:
            self._fetch()

    def _fetch(self) -> None:
        these, found = self._begun.popleft()
        index, cosine, sure = (x[: len(these)] for x in jax.device_get(found))
        self.index[these], self.cosine[these] = index, cosine
        self._doubted.append(these[~sure])

    def in_doubt(self) -> np.ndarray:
        """Waits for what is being found; rows that it is not certain for."""
        while self._begun:
            self._fetch()
        doubted, self._doubted = self._doubted, []
        return np.concatenate(doubted)
