"""Chunked loops over long arrays; chunk sizes need not divide the length."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from mixer_jax.proxies import rows as rows_lib

_BLOCK = 128  # rows; see `Chunks`


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Chunks of equal size that cover `length` rows.

    The last chunk overlaps the one before it if necessary, so that no padding
    is copied. Rows that were already in the previous chunk are not *fresh*:
    readers mask them, and `write` does not change them.

    Chunk sizes are multiples of 128 rows where `max_size` allows: processors
    compute on blocks of rows, and a partial block costs as much as a full one.

    Attributes:
      length: number of rows to cover.
      max_size: maximum number of rows per chunk.
      rows: int32 `[length]`, sorted and unique: the rows of longer arrays that
        are covered; None covers all rows.
    """

    length: int
    max_size: int
    rows: jax.Array | None = None

    @property
    def number(self) -> int:
        """The number of chunks."""
        whole = self.max_size // _BLOCK * _BLOCK
        return math.ceil(self.length / (whole or self.max_size))

    @property
    def size(self) -> int:
        """The number of rows per chunk."""
        size = math.ceil(self.length / self.number)
        if self.max_size >= _BLOCK:
            size = math.ceil(size / _BLOCK) * _BLOCK
        return min(size, self.length)

    @property
    def indices(self) -> jax.Array:
        """The indices of all chunks, for `jax.lax.scan`."""
        return jnp.arange(self.number)

    def start(self, index: jax.Array) -> jax.Array:
        """Returns the position of a chunk's first row."""
        return jnp.minimum(index * self.size, self.length - self.size)

    def positions(self, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns row positions and a mask of fresh rows, `[size]` each."""
        positions = self.start(index) + jnp.arange(self.size)
        return positions, positions >= index * self.size

    def read(self, index: jax.Array, tree: Any) -> Any:
        """Reads a chunk of every leaf `[length or more, ...]`."""
        if self.rows is not None:
            return rows_lib.take(tree, self.cut(index, self.rows))
        return jax.tree.map(lambda x: self.cut(index, x), tree)

    def write(self, index: jax.Array, tree: Any, part: Any) -> Any:
        """Writes a chunk's fresh rows to all leaves `[length or more, ...]`."""
        _, fresh = self.positions(index)

        def keep(old, new):
            mask = fresh.reshape(-1, *[1] * (new.ndim - 1))
            return jnp.where(mask, new, old)

        part = jax.tree.map(keep, self.read(index, tree), part)
        if self.rows is not None:
            return rows_lib.put(tree, self.cut(index, self.rows), part)
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_slice_in_dim(
                x, new, self.start(index), 0
            ),
            tree,
            part,
        )

    def cut(self, index: jax.Array, x: jax.Array) -> jax.Array:
        """Returns a chunk of `x [length, ...]`, indexed by position."""
        return jax.lax.dynamic_slice_in_dim(x, self.start(index), self.size)
