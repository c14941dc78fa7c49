"""Loops over long arrays in chunks whose size need not divide the length."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from mixer_jax.proxies import rows as rows_lib

_BLOCK = 128  # rows


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Chunks of equal size that cover `length` rows.

    The last chunk begins early enough to be whole, so nothing is copied to
    pad it. A row that the chunk before had already is not *fresh*: readers
    mask it, and `write` leaves it alone.

    Chunks are whole multiples of 128 rows where `most` allows: processors
    compute on blocks of rows, and a ragged edge costs as much as a whole one.

    Attributes:
      length: rows to cover.
      most: the most rows of a chunk.
      rows: int32 `[length]`, sorted and unique: the rows of longer arrays that
        are covered; None is all of them.
    """

    length: int
    most: int
    rows: jax.Array | None = None

    @property
    def number(self) -> int:
        """How many chunks there are."""
        whole = self.most // _BLOCK * _BLOCK
        return math.ceil(self.length / (whole or self.most))

    @property
    def size(self) -> int:
        """Rows of every chunk."""
        size = math.ceil(self.length / self.number)
        if self.most >= _BLOCK:
            size = math.ceil(size / _BLOCK) * _BLOCK
        return min(size, self.length)

    @property
    def indices(self) -> jax.Array:
        """Every chunk's index, to scan over."""
        return jnp.arange(self.number)

    def start(self, index: jax.Array) -> jax.Array:
        """Where a chunk begins."""
        return jnp.minimum(index * self.size, self.length - self.size)

    def positions(self, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A chunk's rows: positions int32 `[size]`, fresh bool `[size]`."""
        positions = self.start(index) + jnp.arange(self.size)
        return positions, positions >= index * self.size

    def read(self, index: jax.Array, tree: Any) -> Any:
        """Takes a chunk of every leaf `[length or more, ...]`."""
        if self.rows is not None:
            return rows_lib.take(tree, self.cut(index, self.rows))
        return jax.tree.map(lambda x: self.cut(index, x), tree)

    def write(self, index: jax.Array, tree: Any, part: Any) -> Any:
        """Puts a chunk's fresh rows into every leaf `[length or more, ...]`."""
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
        """Returns a chunk of `[length, ...]`, which has a row for each row."""
        return jax.lax.dynamic_slice_in_dim(x, self.start(index), self.size)
