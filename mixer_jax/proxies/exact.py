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
        """None: there is no graph."""

    def build_graph(self, proxies: jax.Array) -> None:
        """Returns None: there is no graph."""

    def select(self, proxies, embeddings, labels, graph, key) -> jax.Array:
        """Returns all rows; see `interface.Head`."""
        local = meshes.padded_rows(self.num_categories, self.mesh)
        local //= self.mesh.size
        rows = jnp.tile(jnp.arange(local), self.mesh.size)
        return jax.lax.with_sharding_constraint(rows, meshes.rows(self.mesh))

    def step(
        self,
        optimizer,
        proxies,
        moments,
        embeddings,
        labels,
        graph,
        key,
        learning_rate,
        margins=None,
    ) -> interface.HeadStep:
        """Updates all rows; see `interface.Head`."""

        def step(
            proxies, moments, embeddings, labels, key, learning_rate, margins
        ):
            batch = softmax.gather(self.loss, embeddings, labels, margins)
            start, count = rows_lib.own(self.num_categories, len(proxies))
            target = batch.labels - start
            target = jnp.where(
                (target >= 0) & (target < count), target, softmax.ABSENT
            )
            return softmax.update(
                self.loss,
                optimizer,
                proxies,
                moments,
                None,
                count,
                batch,
                target,
                learning_rate,
                rows_lib.own_key(key),
            )

        split, whole = jax.P(meshes.AXIS), jax.P()
        return jax.shard_map(
            step,
            mesh=self.mesh,
            in_specs=(split, split, split, split, whole, whole, split),
            out_specs=softmax.SPECS,
        )(proxies, moments, embeddings, labels, key, learning_rate, margins)
