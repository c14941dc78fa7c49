"""Segments that together hold a growing set of rows."""

import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from mixer_jax.runtime.arrays import normalize
from mixer_jax.search import segments

_ADDED = 2**16  # rows normalized at once
_GROWTH = 4  # a new segment adds at least 1 / 4 of the capacity


class SegmentList:
    """Rows numbered in insertion order.

    When memory is used up, another segment is allocated. Existing rows stay
    where they are.

    Attributes:
      dim: the number of dimensions.
      mesh: the devices that the rows are sharded over.
      count: the number of rows added so far.
    """

    def __init__(self, dim: int, mesh: Mesh, block: int):
        """Makes an empty list; see `Rows` for the arguments."""
        self.dim, self.mesh, self.count = dim, mesh, 0
        self._block = block
        self._segments: list[segments.Segment] = []

    @property
    def capacity(self) -> int:
        """Number of rows with allocated memory."""
        return sum(len(segment.present) for segment in self._segments)

    def reserve(self, count: int) -> None:
        """Allocates memory for at least `count` rows in total."""
        missing = count - self.capacity
        if missing <= 0:
            return
        missing = max(missing, self.capacity // _GROWTH)
        # Round up to a few sizes, because programs are compiled for each.
        unit = self._block * self.mesh.size
        unit <<= max((-(-missing // unit)).bit_length() - 3, 0)
        size = -(-missing // unit) * unit
        self._segments.append(
            segments.allocate(size, self.dim, self._block, self.mesh)
        )

    def add(self, vectors: np.ndarray, labels: np.ndarray) -> None:
        """Adds the unit rows of vectors `[n, dim]` and labels int32 `[n]`."""
        self.reserve(self.count + len(vectors))
        for index, (first, size) in enumerate(self._spans()):
            start = self.count - first
            count = min(size - start, len(vectors))
            if start < 0:
                continue
            for done in range(0, count, _ADDED):
                some = slice(done, min(done + _ADDED, count))
                self._segments[index] = segments.add(
                    self._segments[index],
                    start + done,
                    normalize(vectors[some]),
                    labels[some],
                )
                # An error in a later step must not leave uncounted rows.
                self.count += some.stop - some.start
            if count > 0:
                vectors, labels = vectors[count:], labels[count:]

    def remove(self, numbers: np.ndarray) -> None:
        """Removes the rows with these numbers, int `[n]`."""
        for index, (first, size) in enumerate(self._spans()):
            here = numbers[(numbers >= first) & (numbers < first + size)]
            self._segments[index] = segments.remove(
                self._segments[index], here - first
            )

    def filled(self) -> Iterator[tuple[segments.Segment, dict[str, int]]]:
        """Yields the segments that contain rows, including removed ones.

        Yields:
          A segment, the number of its `first` row, and the number of `blocks`
          that contain rows.
        """
        for segment, (first, size) in zip(
            self._segments, self._spans(), strict=True
        ):
            held = min(self.count - first, size)
            if held > 0:
                blocks = -(-held // self._block)
                yield segment, {"first": first, "blocks": blocks}

    def masks(self, allowed: np.ndarray | None) -> list[jax.Array | None]:
        """Returns each segment's part of a mask bool `[count]`, sharded."""
        if allowed is None:
            return [None] * len(self._segments)
        allowed = np.asarray(allowed)
        if allowed.shape != (self.count,) or allowed.dtype != bool:
            raise ValueError(
                f"`allowed` has shape {allowed.shape} and dtype "
                f"{allowed.dtype}; it must be bool with one value for each of "
                f"the {self.count} rows."
            )
        return [
            segments.split(segment, allowed[first : first + size])
            for segment, (first, size) in zip(
                self._segments, self._spans(), strict=True
            )
        ]

    def _spans(self) -> list[tuple[int, int]]:
        """Returns the first row and the size of each segment."""
        sizes = [len(segment.present) for segment in self._segments]
        starts = itertools.accumulate(sizes, initial=0)
        return list(zip(starts, sizes, strict=False))
