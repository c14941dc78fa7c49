"""Detection of bitwise identical rows: copies of one image or text."""

import hashlib

import numpy as np
import pandas as pd


class Copies:
    """Sets of bitwise identical rows.

    Attributes:
      first: int64 `[U]`, ascending, the first row of each set.
      code: int64 `[N]`, the set of each row.
    """

    def __init__(self, rows: np.ndarray):
        """Finds the identical rows of `rows [N, C]`."""
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
        """Returns the k nearest rows, given the nearest sets of equal rows.

        Args:
          near: int `[n, K]`, the nearest sets.
          score: `[n, K]`, their cosines.
          k: number of rows to return.
          own: `[n]`, the row to exclude from each result, with K = k + 1; None
            to exclude no row.

        Returns:
          `(index, score)` `[n, k]`, nearest first; ties go to the lower index.
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
