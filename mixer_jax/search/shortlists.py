"""Shortlists: the groups of rows with the largest products."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from mixer_jax.runtime.mesh import AXIS


class Shortlist(flax.struct.PyTreeNode):
    """The groups with the largest products so far, for each of N rows.

    Attributes:
      largest: f32 `[N, K + 1]`, descending, the largest product of each group.
        The last group is not a candidate: its product bounds those of all
        omitted groups.
      group: int32 `[N, K + 1]`, group indices; -1 where there are fewer.
    """

    largest: jax.Array
    group: jax.Array

    @classmethod
    def empty(cls, count: int, kept: int) -> "Shortlist":
        """Returns empty lists for `count` rows."""
        shape = (count, kept + 1)
        return cls(
            jnp.full(shape, -jnp.inf, jnp.float32),
            jnp.full(shape, -1, jnp.int32),
        )

    def offer(
        self, largest_NxG: jax.Array, first: jax.Array, real_G: jax.Array
    ) -> "Shortlist":
        """Returns lists of the largest of the old and new products.

        Args:
          largest_NxG: f32, largest products with G groups.
          first: int32 `[]`, index of the first of these groups.
          real_G: bool, mask of the groups to consider.
        """
        size = self.largest.shape[1]
        largest_NxG = jnp.where(real_G[None, :], largest_NxG, -jnp.inf)
        largest, place = jax.lax.top_k(
            jnp.concatenate([self.largest, largest_NxG], axis=1), size
        )
        # Compute the group indices: concatenating them with the old ones would
        # cost as much as the products.
        before = jnp.take_along_axis(
            self.group, jnp.minimum(place, size - 1), axis=1
        )
        return Shortlist(
            largest, jnp.where(place < size, before, first + place - size)
        )

    def block(self, slot: jax.Array, size: int) -> "Shortlist":
        """Returns the lists of one block of rows."""
        return jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, slot * size, size), self
        )

    def with_block(self, slot: jax.Array, lists: "Shortlist") -> "Shortlist":
        """Returns the lists with one block of rows replaced."""
        return jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(
                x, y, slot * len(y), 0
            ),
            self,
            lists,
        )

    def only_if(self, condition: jax.Array) -> "Shortlist":
        """Returns these lists if `condition` holds, else empty ones."""
        return Shortlist(
            jnp.where(condition, self.largest, -jnp.inf),
            jnp.where(condition, self.group, -1),
        )

    def of_all_devices(self) -> "Shortlist":
        """Returns lists of the largest products over all devices."""
        if jax.lax.axis_size(AXIS) == 1:
            return self
        gather = partial(jax.lax.all_gather, axis_name=AXIS, axis=1, tiled=True)
        largest, place = jax.lax.top_k(
            gather(self.largest), self.largest.shape[1]
        )
        group = jnp.take_along_axis(gather(self.group), place, axis=1)
        return Shortlist(largest, group)
