"""The exact head: the softmax over all categories."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import interface, softmax
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Exact:
    """A head with the softmax over all categories; an `interface.Head`.

    The proxies are updated in place, chunk by chunk.

    Attributes:
      loss: settings of the softmax.
      mesh: the mesh that the batch and the proxies are split over.
      num_categories: C.
    """

    loss: softmax.Loss
    mesh: Mesh
    num_categories: int

    def check(self, batch_size: int) -> None:
        """Does nothing: every positive is active."""

    @property
    def graph_shape(self) -> None:
        """None, because this head has no graph."""

    def build_graph(self, proxies: jax.Array) -> None:
        """Returns None, because this head has no graph."""

    def select(self, given: interface.HeadInput) -> jax.Array:
        """Returns all rows; see `interface.Head`."""
        local = rows_lib.per_device(self.num_categories, self.mesh)
        rows = jnp.tile(jnp.arange(local), self.mesh.size)
        return jax.lax.with_sharding_constraint(rows, meshes.rows(self.mesh))

    def step(
        self, optimizer: interface.RowOptimizer, given: interface.HeadInput
    ) -> interface.HeadStep:
        """Updates all rows; see `interface.Head`."""

        def step(given: interface.HeadInput) -> interface.HeadStep:
            batch = softmax.gather(self.loss, given)
            start, count = rows_lib.own(self.num_categories, len(given.proxies))
            target = batch.labels - start
            here = (target >= 0) & (target < count)
            active = softmax.Active(
                None, count, jnp.where(here, target, softmax.ABSENT)
            )
            key = rows_lib.own_key(given.key)
            return softmax.update(
                self.loss, optimizer, given._replace(key=key), batch, active
            )

        return interface.on_each_device(
            step, self.mesh, interface.STEP_SPECS, given
        )
