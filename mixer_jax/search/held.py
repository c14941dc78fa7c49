"""Rows in blocks, assigned to the devices of a mesh round-robin.

Any range of blocks is thus spread evenly over the devices.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mixer_jax.runtime.mesh import AXIS
from mixer_jax.search.queries import Asked

GROUP = 8  # rows per group, represented by its largest product
SPLIT, WHOLE = PartitionSpec(AXIS), PartitionSpec()


class Held(flax.struct.PyTreeNode):
    """Rows sharded over the mesh: block b is on device b mod D.

    Attributes:
      whole: f32 `[N, C]`, unit rows in the order of the devices that hold them.
      block: rows per block.
      mesh: the mesh that holds the rows.
    """

    whole: jax.Array
    block: int = flax.struct.field(pytree_node=False, kw_only=True)
    mesh: Mesh = flax.struct.field(pytree_node=False, kw_only=True)

    def holder(self, block: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns whether this device holds a block, and its local index."""
        devices = self.mesh.size
        return block % devices == jax.lax.axis_index(AXIS), block // devices

    def real(
        self, local: jax.Array, number: jax.Array, asked: Asked
    ) -> jax.Array:
        """Returns which of the given rows a query may find.

        Args:
          local: int32, the rows' indices on this device.
          number: int32, the rows' numbers, of the same shape.
          asked: one query, without its first axis.
        """
        raise NotImplementedError


def places(group_G: jax.Array) -> jax.Array:
    """Returns the rows of groups, int32 `[G, 8]`."""
    return group_G[:, None] * GROUP + jnp.arange(GROUP)[None, :]
