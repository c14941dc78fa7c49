"""A mutable set of rows on a mesh, with exact nearest-neighbor search.

Each row is held in f32, and in 8-bit integers that bound its cosines
(`segments.py`). A search screens the integers, then scores in f32 the rows that
may be nearest. If the bounds do not settle a query, such as one with thousands
of equally near rows, it is repeated with more rows and finally with all of
them, so the result is always exact.
"""

import threading
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.mesh import make_mesh, replicated
from mixer_jax.search import segment_ranking, segment_search
from mixer_jax.search.held import GROUP
from mixer_jax.search.queries import (
    Asked,
    Queries,
    check_integers,
    check_vectors,
)
from mixer_jax.search.segment_list import SegmentList
from mixer_jax.search.segment_search import Best

MAX_K = 1000
BLOCK = 4096  # contiguous rows on a device
_SPARE = 32  # groups scored in addition to 2 k
# Factors by which the number of groups grows for unsettled queries, and its
# maximum. A search starts with the second factor if it then scores less than
# `_LITTLE` of the rows: gathering a row takes far longer than screening it, but
# repeating a query means screening all rows again.
_TIMES, _MOST, _LITTLE = (1, 4, 16), 2**14, 1 / 64
_LEAST_K = 16  # k is rounded up to a power of two, to compile fewer sizes
_RELEVANT = 16  # relevant rows ranked at once per query


class Rows:
    """A set of unit rows, numbered in insertion order.

    Capacity grows by whole segments; between growths, nothing is compiled.
    Instances are thread-safe.

    >>> rows = Rows(2)
    >>> rows.append(np.array([[1, 0], [0, 1], [3, 4]], np.float32))
    0
    >>> numbers, cosines = rows.search(np.array([[0, 1]], np.float32), k=2)
    >>> numbers.tolist(), cosines.tolist()
    ([[1, 2]], [[1.0, 0.800000011920929]])
    >>> rows.remove([1])
    >>> rows.search(np.array([[0, 1]], np.float32), k=2)[0].tolist()
    [[2, 0]]
    """

    def __init__(
        self,
        dim: int,
        mesh: Mesh | None = None,
        *,
        capacity: int = 0,
        block: int = BLOCK,
    ):
        """Makes an empty set.

        Args:
          dim: the number of dimensions, at least 1.
          mesh: the devices to shard the rows over; by default all. Results do
            not depend on it.
          capacity: the number of rows to preallocate.
          block: the number of contiguous rows on a device, a power of two and
            at least 8.
        """
        mesh = make_mesh() if mesh is None else mesh
        self._held = SegmentList(dim, mesh, block)
        self._held.reserve(capacity)
        self._lock = threading.Lock()
        self._empty = jax.jit(
            Best.empty, static_argnums=(0, 1), out_shardings=replicated(mesh)
        )

    def __len__(self) -> int:
        """Returns the number of rows added so far, including removed ones."""
        return self._held.count

    @property
    def capacity(self) -> int:
        """Number of rows with allocated memory."""
        return self._held.capacity

    def append(
        self, vectors: np.ndarray, *, labels: np.ndarray | None = None
    ) -> int:
        """Adds rows.

        Args:
          vectors: `[n, dim]`; scaled to unit length, zeros stay zeros.
          labels: int `[n]`, see `search`; negative numbers are no labels.

        Returns:
          The number of the first added row; the others follow.

        Raises:
          ValueError: if an argument has the wrong shape, or a vector is not
            finite.
        """
        vectors = check_vectors(vectors, self._held.dim, "vectors")
        labels = check_integers(labels, len(vectors), "labels")
        if labels is None:
            labels = np.full(len(vectors), -1, np.int32)
        with self._lock:
            first = len(self)
            self._held.add(vectors, labels)
            return first

    def remove(self, numbers: Sequence[int]) -> None:
        """Removes rows; the others keep their numbers.

        Args:
          numbers: the rows' numbers; rows already removed are ignored.

        Raises:
          IndexError: if there is no row with such a number.
        """
        numbers = np.asarray(numbers, np.int64).reshape(-1)
        with self._lock:
            wrong = numbers[(numbers < 0) | (numbers >= len(self))]
            if len(wrong):
                raise IndexError(
                    f"Row {wrong[0]} cannot be removed: there are {len(self)} "
                    "rows, numbered from 0."
                )
            self._held.remove(numbers)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allowed: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        exclude: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k rows nearest to each query by cosine, exactly.

        Args:
          queries: `[Q, dim]`, of any length.
          k: the number of rows to return, from 1 to `MAX_K`.
          allowed: bool `[len(self)]`, the rows that may be found; all if None.
          labels: int `[Q]`; rows with the same label >= 0 are hidden from the
            query, such as documents that show the query's own image.
          exclude: int `[Q]`, a row hidden from each query; -1 for none.

        Returns:
          Row numbers int64 `[Q, k]` and cosines f32 `[Q, k]`, nearest first;
          ties go to the lower number. If fewer than k rows remain, the
          last entries are -1 and -inf.

        Raises:
          ValueError: if an argument has the wrong shape, a query is not finite
            or k is out of range.
        """
        if not 1 <= k <= MAX_K:
            raise ValueError(f"k is {k}; it must be from 1 to {MAX_K}.")
        rows = check_vectors(queries, self._held.dim, "queries")
        asked = Queries(
            normalize(rows),
            check_integers(labels, len(rows), "labels"),
            check_integers(exclude, len(rows), "exclude"),
        )
        with self._lock:
            masks = self._held.masks(allowed)
            number, cosine = self._search(asked, masks, k)
        return number[:, :k].astype(np.int64), cosine[:, :k]

    def _search(
        self, asked: Queries, masks: list[jax.Array | None], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        width = 1 << (max(k, _LEAST_K) - 1).bit_length()
        count = len(asked.rows)
        number = np.full((count, width), -1, np.int32)
        cosine = np.full((count, width), -np.inf, np.float32)
        left = np.arange(count)
        scored = 2 * width + _SPARE
        levels = [min(times * scored, _MOST) for times in _TIMES]
        more = count * levels[1] * GROUP < _LITTLE * len(self)
        for kept in (*levels[int(more) :], None):
            begun = [
                (these, self._begin(block, masks, width, kept))
                for these, block, _ in asked.blocks(left)
            ]
            left = left[:0]
            for these, best in begun:
                best, n = jax.device_get(best), len(these)
                number[these], cosine[these] = best.number[:n], best.cosine[:n]
                left = np.append(left, these[~best.sure(k)[:n]])
        return number, cosine

    def _begin(
        self,
        asked: Asked,
        masks: list[jax.Array | None],
        k: int,
        kept: int | None,
    ) -> Best:
        """Starts a search for a block of queries on the devices.

        Args:
          asked: the queries.
          masks: the allowed rows of each segment.
          k: the number of rows to find.
          kept: the number of groups to score in each segment; None for all.
        """
        best = self._empty(len(asked.row), k)
        for mask, (segment, where) in zip(
            masks, self._held.filled(), strict=False
        ):
            skip = asked.skip
            if skip is not None:
                skip = skip - np.int32(where["first"])
            given = (segment, mask, asked.replace(skip=skip), best)
            if kept is None:
                best = segment_search.scored(*given, **where)
            else:
                best = segment_search.screened(*given, **where, kept=kept)
        return best

    def positions(
        self,
        queries: np.ndarray,
        relevant: np.ndarray,
        *,
        labels: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns positions of given rows in each query's full ranking.

        A row's position is one more than the number of rows ahead of it, so
        the full ranking is never built.

        Args:
          queries: `[Q, dim]`, of any length.
          relevant: int `[Q, R]`, row numbers; -1 is padding.
          labels: see `search`.

        Returns:
          int32 `[Q, R]`, from 1; 0 for padding and for hidden rows.

        Raises:
          ValueError: see `search`.
        """
        rows = check_vectors(queries, self._held.dim, "queries")
        asked = Queries(
            normalize(rows), check_integers(labels, len(rows), "labels")
        )
        width = relevant.shape[1]
        padding = ((0, 0), (0, -width % _RELEVANT))
        relevant = np.pad(relevant, padding, constant_values=-1)
        found = np.zeros(relevant.shape, np.int32)
        every = np.arange(len(rows))
        with self._lock:
            for start in range(0, width, _RELEVANT):
                some = slice(start, start + _RELEVANT)
                part = relevant[:, some].astype(np.int32)
                blocks = asked._replace(relevant=part).blocks(every)
                for these, block, near in blocks:
                    found[these, some] = self._rank(block, near)[: len(these)]
        return found[:, :width]

    def _rank(self, asked: Asked, relevant: np.ndarray) -> np.ndarray:
        """Returns `positions` for a block of queries and of relevant rows."""
        cosine = np.full(relevant.shape, -np.inf, np.float32)
        for segment, where in self._held.filled():
            cosine = segment_ranking.look_up(
                segment, asked, relevant, cosine, **where
            )
        ahead = np.zeros(relevant.shape, np.int32)
        for segment, where in self._held.filled():
            ahead = segment_ranking.count_ahead(
                segment, asked, relevant, cosine, ahead, **where
            )
        cosine, ahead = jax.device_get((cosine, ahead))
        return np.where(np.isneginf(cosine), 0, ahead + 1)
