"""A mutable set of rows on a mesh, with exact nearest-neighbor search.

Each row is held in f32, and in 8-bit integers that bound its cosines
(`segments.py`). A search screens the integers, and decides among the rows that
may be nearest in f32. If the bounds do not settle a query, such as one with
thousands of equally near rows, it is repeated with more rows and at last with
all of them, so the result is always exact.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.mesh import make_mesh, replicated
from mixer_jax.search import segment_search, segments
from mixer_jax.search.held import Asked
from mixer_jax.search.segment_search import Best

MAX_K = 1000
BLOCK = 4096  # rows that are screened at once per device
_ADDED = 2**16  # rows that are normalized at once
_GROWTH = 4  # a set grows by a fraction of its capacity: 1 / _GROWTH
# Queries per call: a call for fewer takes less time. Each size is compiled.
_QUERIES = (1, 8, 64, 256)
_SPARE = 22  # groups that are scored in addition to k
_MORE = 8  # factor by which their number grows for unsettled queries
_LEAST_K = 16  # k is rounded up to a power of two, so that few are compiled


class Rows:
    """A set of unit rows, numbered in the order in which they are added.

    Capacity grows by whole segments, which double now and then; existing rows
    stay where they are. Instances are thread-safe.

    >>> rows = Rows(2)
    >>> rows.append(np.array([[1, 0], [0, 1], [3, 4]], np.float32))
    0
    >>> numbers, cosines = rows.search(np.array([[0, 1]], np.float32), k=2)
    >>> numbers.tolist(), cosines.round(2).tolist()
    ([[1, 2]], [[1.0, 0.800000011920929]])
    >>> rows.remove([1])
    >>> rows.search(np.array([[0, 1]], np.float32), k=2)[0].tolist()
    [[2, 0]]

    Attributes:
      dim: the number of dimensions.
      mesh: the devices that the rows are sharded over.
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
          capacity: the number of rows to allocate memory for in advance.
          block: rows that are screened at once, a power of two and at least 8.
        """
        self.dim = dim
        self.mesh = make_mesh() if mesh is None else mesh
        self._block = block
        self._parts: list[segments.Segment] = []
        self._count = 0
        self._lock = threading.RLock()
        self._empty = jax.jit(
            Best.empty,
            static_argnums=(0, 1),
            out_shardings=replicated(self.mesh),
        )
        if capacity:
            self._allocate(capacity)

    def __len__(self) -> int:
        """Returns the number of rows added so far, including removed ones."""
        return self._count

    @property
    def capacity(self) -> int:
        """Number of rows that memory is allocated for."""
        return sum(len(part.present) for part in self._parts)

    def append(
        self, vectors: np.ndarray, *, labels: np.ndarray | None = None
    ) -> int:
        """Adds rows.

        Args:
          vectors: `[n, dim]`; scaled to unit length, zeros stay zeros.
          labels: int `[n]`; see `search`. Negative numbers are no labels.

        Returns:
          The number of the first added row; the others follow.

        Raises:
          ValueError: if the vectors have the wrong shape or are not finite.
        """
        vectors = self._checked(vectors, "vectors")
        if labels is None:
            labels = np.full(len(vectors), -1)
        labels = np.asarray(labels, np.int32)
        if labels.shape != (len(vectors),):
            raise ValueError(
                f"There are {len(vectors)} vectors, but labels of shape "
                f"{labels.shape}."
            )
        with self._lock:
            first = self._count
            missing = first + len(vectors) - self.capacity
            if missing > 0:
                self._allocate(missing)
            for start in range(0, len(vectors), _ADDED):
                part = slice(start, start + _ADDED)
                self._add(normalize(vectors[part]), labels[part])
            return first

    def _allocate(self, missing: int) -> None:
        """Adds a segment for at least the missing rows."""
        unit = self._block * self.mesh.size
        size = max(missing, self.capacity // _GROWTH, 1)
        # Round up to a few sizes, as searches are compiled for each.
        step = unit << max((-(-size // unit)).bit_length() - 3, 0)
        self._parts.append(
            segments.allocate(
                -(-size // step) * step, self.dim, self._block, self.mesh
            )
        )

    def _add(self, vectors: np.ndarray, labels: np.ndarray) -> None:
        for number, (first, size) in enumerate(self._spans()):
            start = self._count - first
            count = min(size - start, len(vectors))
            if start < 0 or count <= 0:
                continue
            self._parts[number] = segments.add(
                self._parts[number], start, vectors[:count], labels[:count]
            )
            self._count += count
            vectors, labels = vectors[count:], labels[count:]

    def _spans(self) -> list[tuple[int, int]]:
        """Returns the first row and the size of each segment."""
        sizes = [len(part.present) for part in self._parts]
        starts = itertools.accumulate(sizes, initial=0)
        return list(zip(starts, sizes, strict=False))

    def remove(self, numbers: Sequence[int]) -> None:
        """Removes rows; the others keep their numbers.

        Args:
          numbers: the rows' numbers; rows that are already removed are ignored.

        Raises:
          IndexError: if there is no row of such a number.
        """
        numbers = np.asarray(numbers, np.int64).reshape(-1)
        with self._lock:
            wrong = numbers[(numbers < 0) | (numbers >= self._count)]
            if len(wrong):
                raise IndexError(
                    f"Row {wrong[0]} cannot be removed: there are "
                    f"{self._count} rows, numbered from 0."
                )
            for index, (first, size) in enumerate(self._spans()):
                here = (numbers >= first) & (numbers < first + size)
                self._parts[index] = segments.remove(
                    self._parts[index], numbers[here] - first
                )

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
          labels: int `[Q]`; rows of the same label >= 0 are hidden from the
            query, such as documents that show the query's own image.
          exclude: int `[Q]`, one row that is hidden from the query; -1 for
            none.

        Returns:
          Row numbers int64 `[Q, k]` and cosines f32 `[Q, k]`, nearest first;
          ties go to the lower number. Where fewer than k rows remain, -1 and
          -inf.

        Raises:
          ValueError: if an argument has the wrong shape, a query is not finite
            or k is out of range.
        """
        queries = normalize(self._checked(queries, "queries"))
        if not 1 <= k <= MAX_K:
            raise ValueError(f"k is {k}; it must be from 1 to {MAX_K}.")
        with self._lock:
            asked = _Queries(
                queries,
                _checked_integers(labels, "labels", len(queries)),
                _checked_integers(exclude, "exclude", len(queries)),
            )
            masks = self._masks(allowed)
            found = self._search(asked, masks, max(k, _LEAST_K))
        return found[0][:, :k].astype(np.int64), found[1][:, :k]

    def _masks(self, allowed: np.ndarray | None) -> list[jax.Array | None]:
        """Returns the allowed rows of each segment."""
        if allowed is None:
            return [None] * len(self._parts)
        allowed = np.asarray(allowed)
        if allowed.shape != (self._count,) or allowed.dtype != bool:
            raise ValueError(
                f"`allowed` has shape {allowed.shape} and dtype "
                f"{allowed.dtype}; it must be bool with one value for each of "
                f"the {self._count} rows."
            )
        return [
            segments.split(part, allowed[first : first + size])
            for part, (first, size) in zip(
                self._parts, self._spans(), strict=True
            )
        ]

    def _search(
        self, asked: "_Queries", masks: list[jax.Array | None], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        k = 1 << (k - 1).bit_length()
        count = len(asked.rows)
        number = np.full((count, k), -1, np.int32)
        cosine = np.full((count, k), -np.inf, np.float32)
        left = np.arange(count)
        for kept in (k + _SPARE, _MORE * (k + _SPARE), None):
            begun = [
                (these, self._begin(block, masks, k, kept))
                for these, block in asked.blocks(left)
            ]
            doubted = []
            for these, best in begun:
                best, n = jax.device_get(best), len(these)
                number[these], cosine[these] = best.number[:n], best.cosine[:n]
                doubted.append(these[~best.sure()[:n]])
            left = np.concatenate(doubted) if doubted else left[:0]
            if not len(left):
                break
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
        for (first, size), part, mask in zip(
            self._spans(), self._parts, masks, strict=True
        ):
            held = min(self._count - first, size)
            if held <= 0:
                continue
            skip = None if asked.skip is None else asked.skip - np.int32(first)
            given = (part, mask, asked.replace(skip=skip), best)
            where = {"first": first, "blocks": -(-held // self._block)}
            if kept is None:
                best = segment_search.scored(*given, **where)
            else:
                best = segment_search.screened(*given, **where, kept=kept)
        return best

    def _checked(self, vectors: np.ndarray, name: str) -> np.ndarray:
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(
                f"The {name} have shape {vectors.shape}; they must have "
                f"{self.dim} columns."
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{(~finite).sum()} of {len(vectors)} {name} are not finite; "
                f"the first is row {np.argmin(finite)}."
            )
        return vectors


class _Queries(NamedTuple):
    """Queries f32 `[Q, C]`, and their labels and excluded rows or None."""

    rows: np.ndarray
    labels: np.ndarray | None
    exclude: np.ndarray | None

    def blocks(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, Asked]]:
        """Yields blocks of the chosen queries, the last one padded."""
        while len(chosen):
            size = next((s for s in _QUERIES if s >= len(chosen)), _QUERIES[-1])
            these, chosen = chosen[:size], chosen[size:]

            def part(array, these=these, size=size):
                return (
                    None
                    if array is None
                    else np.resize(array[these], (size, *array.shape[1:]))
                )

            yield these, Asked(*map(part, self))


def _checked_integers(
    values: np.ndarray | None, name: str, count: int
) -> np.ndarray | None:
    if values is None:
        return None
    values = np.asarray(values)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` has shape {values.shape} and dtype {values.dtype}; it "
            f"must hold an integer for each of the {count} queries."
        )
    return values.astype(np.int32)
