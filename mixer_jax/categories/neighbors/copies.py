"""Rows that are the same, bit for bit: copies of one picture or text."""

import hashlib

import numpy as np
import pandas as pd


class Copies:
    """Which rows are the same, bit for bit.

    Attributes:
      first: int64 `[U]`, rising: the first of each set of equal rows.
      code: int64 `[N]`: which set each row is of.
    """

    def __init__(self, rows: np.ndarray):
        """Compares `rows [N, C]`."""
        rows = np.ascontiguousarray(rows)
        digests = np.empty(len(rows), object)
        digests[:] = [
            hashlib.blake2b(row, digest_size=16).digest() for row in rows
        ]
        self.code, _ = pd.factorize(digests)
        self.first = np.unique(self.code, return_index=True)[1]
        self._order = np.argsort(self.code, kind="stable")
        self._size = np.bincount(self.code)
        self._start = np.cumsum(self._size) - self._size

    def expand(
        self,
        near: np.ndarray,
        score: np.ndarray,
        k: int,
        own: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows, given the k nearest sets of equal rows.

        Args:
          near: int `[n, K]`, sets.
          score: `[n, K]`, their cosines.
          k: how many rows are wanted.
          own: `[n]`, a row each that is not wanted; then K is k + 1. None if
            there is no such row.

        Returns:
          `(index, score)` `[n, k]`, nearest first; of equal scores the lower
          index.
        """
        each = min(k + int(own is not None), int(self._size.max()))
        place = self._start[near][..., None] + np.arange(each)
        there = np.arange(each) < self._size[near][..., None]
        index = self._order[np.where(there, place, 0)]
        if own is not None:
            there &= index != own[:, None, None]
        score = np.where(there, score[..., None], -np.inf)
        index, score = (x.reshape(len(near), -1) for x in (index, score))
        best = np.lexsort((index, -score), axis=1)[:, :k]
        return (
            np.take_along_axis(index, best, 1),
            np.take_along_axis(score, best, 1),
        )
