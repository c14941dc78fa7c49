"""The KNN head: every sample against the proxies near the batch.

The KNN softmax of Song et al., "Large-Scale Training System for 100-Million
Classification at Alibaba", KDD 2020, with an active set of fixed size.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax import mesh as meshes
from mixer_jax.errors import UserError
from mixer_jax.proxies import active_set, class_graph, interface, softmax
from mixer_jax.proxies import rows as rows_lib


@dataclasses.dataclass(frozen=True)
class Knn:
    """The softmax over the active set; an `interface.Head`.

    A step reads and writes the active rows only, of proxies and moments.

    Attributes:
      loss: settings of the softmax.
      mesh: the mesh that the batch and the proxies are split over.
      num_categories: C.
      active: M, active rows a device.
      uniform: how many of them are drawn at random, at least.
      neighbours: K, of the class graph.
    """

    loss: softmax.Loss
    mesh: Mesh
    num_categories: int
    active: int
    uniform: int
    neighbours: int

    def check(self, batch_size: int) -> None:
        """Checks that no batch of this size can lose a positive.

        Raises:
          UserError: if a device may own more positives than it may activate.
        """
        rows = self.graph_shape.shape[0] // self.mesh.size
        needed = min(batch_size, rows)
        if self.active < needed:
            raise UserError(
                f"config.head.active activates {self.active} of the {rows} "
                f"proxies on each device, but {needed} of them may be the "
                f"own categories of a batch of {batch_size}; set it to "
                f"{math.ceil(1e6 * needed / rows) / 1e6} or more, or make the "
                "batch smaller."
            )

    @property
    def graph_shape(self) -> jax.ShapeDtypeStruct:
        """int32 `[C_pad, K]`, split by rows."""
        rows = meshes.padded_rows(self.num_categories, self.mesh)
        return jax.ShapeDtypeStruct(
            (rows, self.neighbours),
            jnp.int32,
            sharding=meshes.rows(self.mesh),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def build_graph(self, proxies: jax.Array) -> jax.Array:
        """Returns the class graph of the proxies, int32 `[C_pad, K]`."""
        split = jax.P(meshes.AXIS)
        return jax.shard_map(
            functools.partial(
                class_graph.build,
                num_categories=self.num_categories,
                k=self.neighbours,
            ),
            mesh=self.mesh,
            in_specs=split,
            out_specs=split,
        )(proxies)

    @functools.partial(jax.jit, static_argnums=0)
    def select(self, proxies, embeddings, labels, graph, key) -> jax.Array:
        """Returns the active rows; see `interface.Head`."""

        def select(labels, graph, key):
            labels = jax.lax.all_gather(labels, meshes.AXIS, tiled=True)
            return self._select(labels, graph, key)

        split, whole = jax.P(meshes.AXIS), jax.P()
        return jax.shard_map(
            select,
            mesh=self.mesh,
            in_specs=(split, split, whole),
            out_specs=split,
        )(labels, graph, key)

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
    ) -> interface.HeadStep:
        """Updates the active rows; see `interface.Head`."""

        def step(
            proxies, moments, embeddings, labels, graph, key, learning_rate
        ):
            labels = jax.lax.all_gather(labels, meshes.AXIS, tiled=True)
            start, count = rows_lib.own(self.num_categories, len(proxies))
            active = self._select(labels, graph, key)
            target = jnp.searchsorted(active, labels - start)
            found = active[jnp.minimum(target, self.active - 1)]
            out = softmax.update(
                self.loss,
                optimizer,
                *rows_lib.take((proxies, moments), active),
                jnp.minimum(count, self.active),
                embeddings,
                jnp.where(found == labels - start, target, softmax.ABSENT),
                learning_rate,
            )
            proxies, moments = rows_lib.put(
                (proxies, moments), active, (out.proxies, out.moments)
            )
            return out._replace(proxies=proxies, moments=moments)

        split, whole = jax.P(meshes.AXIS), jax.P()
        return jax.shard_map(
            step,
            mesh=self.mesh,
            in_specs=(split, split, split, split, split, whole, whole),
            out_specs=softmax.SPECS,
        )(proxies, moments, embeddings, labels, graph, key, learning_rate)

    def _select(self, labels, graph, key):
        """This device's active rows, given the labels of the whole batch."""
        self.check(len(labels))
        start, count = rows_lib.own(self.num_categories, len(graph))
        return active_set.select(
            jax.random.fold_in(key, jax.lax.axis_index(meshes.AXIS)),
            labels,
            active_set.neighbours(graph, labels, start),
            start,
            count,
            self.active,
            self.uniform,
        )
