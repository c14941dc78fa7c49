"""Heads that score an active set of rows: `sampled`, `knn` and `topk`.

They differ in the source of hard negatives: none, the class graph, or the
current proxies. A step computes the exact softmax over the active rows, and
reads and writes only these rows of the proxies and moments.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import (
    active_set,
    class_graph,
    hardest,
    interface,
    softmax,
)
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A head over positives and uniform random rows; an `interface.Head`.

    An et al., "Killing Two Birds with One Stone: Efficient and Robust
    Training of Face Recognition CNNs by Partial FC", arXiv 2203.15565.

    Attributes:
      loss: settings of the softmax.
      mesh: the mesh that the batch and the proxies are split over.
      num_categories: C.
      active: M, active rows per device.
      uniform: minimum number of them that are drawn at random.
      importance: whether random rows are weighted in the softmax's sum by the
        number of rows that each represents, which makes the sum unbiased
        (Bengio and Senecal, "Quick Training of Probabilistic Neural Nets by
        Importance Sampling", AISTATS 2003).
    """

    loss: softmax.Loss
    mesh: Mesh
    num_categories: int
    active: int
    uniform: int
    importance: bool

    @property
    def rows(self) -> int:
        """Rows of the proxies on each device, including padding."""
        padded = meshes.padded_rows(self.num_categories, self.mesh)
        return padded // self.mesh.size

    def check(self, batch_size: int) -> None:
        """Checks that every positive of a batch of this size can be active.

        Raises:
          UserError: if a device may own more positives than active rows.
        """
        needed = min(batch_size, self.rows)
        if self.active < needed:
            raise UserError(
                f"config.head.active activates {self.active} of the "
                f"{self.rows} proxies on each device, but {needed} of them "
                f"may be the own categories of a batch of {batch_size}; set "
                f"it to {math.ceil(1e6 * needed / self.rows) / 1e6} or more, "
                "or make the batch smaller."
            )

    @property
    def graph_shape(self) -> jax.ShapeDtypeStruct | None:
        """None: there is no graph."""

    def build_graph(self, proxies: jax.Array) -> interface.Graph:
        """Returns None: there is no graph."""

    def near(
        self, proxies: jax.Array, batch: softmax.Batch, graph: interface.Graph
    ) -> jax.Array:
        """Finds hard negatives of each sample, inside `jax.shard_map`.

        Args:
          proxies: `[R, n D]`, this device's rows.
          batch: the whole batch.
          graph: this device's rows of the class graph, or None.

        Returns:
          int32 `[B, K]`, categories by decreasing cosine; negative entries are
          ignored. Categories of other devices may be included or missing.
        """
        return jnp.zeros((len(batch.labels), 0), jnp.int32)

    @functools.partial(jax.jit, static_argnums=0)
    def select(self, proxies, embeddings, labels, graph, key) -> jax.Array:
        """Returns the active rows; see `interface.Head`."""

        def select(proxies, embeddings, labels, graph, key):
            batch = softmax.gather(self.loss, embeddings, labels)
            key = rows_lib.own_key(key)
            return self._select(proxies, batch, graph, key)[0]

        split, whole = jax.P(meshes.AXIS), jax.P()
        return jax.shard_map(
            select,
            mesh=self.mesh,
            in_specs=(split, split, split, split, whole),
            out_specs=split,
        )(proxies, embeddings, labels, graph, key)

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
        """Updates the active rows; see `interface.Head`."""

        def step(
            proxies,
            moments,
            embeddings,
            labels,
            graph,
            key,
            learning_rate,
            margins,
        ):
            batch = softmax.gather(self.loss, embeddings, labels, margins)
            start, count = rows_lib.own(self.num_categories, len(proxies))
            key = rows_lib.own_key(key)
            active, stand_for = self._select(proxies, batch, graph, key)
            target = jnp.searchsorted(active, batch.labels - start)
            found = active[jnp.minimum(target, self.active - 1)]
            return softmax.update(
                self.loss,
                optimizer,
                proxies,
                moments,
                active,
                jnp.minimum(count, self.active),
                batch,
                jnp.where(
                    found == batch.labels - start, target, softmax.ABSENT
                ),
                learning_rate,
                # A separate key: the selection has already used this one.
                jax.random.fold_in(key, 2),
                stand_for if self.importance else None,
            )

        split, whole = jax.P(meshes.AXIS), jax.P()
        return jax.shard_map(
            step,
            mesh=self.mesh,
            in_specs=(*[split] * 5, whole, whole, split),
            out_specs=softmax.SPECS,
        )(
            proxies,
            moments,
            embeddings,
            labels,
            graph,
            key,
            learning_rate,
            margins,
        )

    def _select(self, proxies, batch, graph, key):
        """Returns this device's active rows and their weights."""
        self.check(len(batch.labels))
        start, count = rows_lib.own(self.num_categories, self.rows)
        return active_set.select(
            key,
            batch.labels,
            self.near(proxies, batch, graph),
            start,
            count,
            self.active,
            self.uniform,
        )


@dataclasses.dataclass(frozen=True)
class Knn(Sampled):
    """A head that adds the graph neighbors of the batch's categories.

    The KNN softmax of Song et al., "Large-Scale Training System for
    100-Million Classification at Alibaba", KDD 2020, with an active set of
    fixed size.

    Attributes:
      neighbors: K, neighbors per category in the class graph.
      graph_products: dtype of the factors of the matrix products that build
        the graph.
    """

    neighbors: int
    graph_products: str = "float32"

    @property
    def graph_shape(self) -> jax.ShapeDtypeStruct:
        """The graph's int32 `[C_pad, K]`, split by rows."""
        return jax.ShapeDtypeStruct(
            (self.rows * self.mesh.size, self.neighbors),
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
                k=self.neighbors,
                subcenters=self.loss.subcenters,
                products=self.graph_products,
            ),
            mesh=self.mesh,
            in_specs=split,
            out_specs=split,
        )(proxies)

    def near(self, proxies, batch, graph) -> jax.Array:
        """Looks up the labels' neighbors; see `Sampled.near`."""
        start, _ = rows_lib.own(self.num_categories, self.rows)
        return active_set.neighbors(graph, batch.labels, start)


@dataclasses.dataclass(frozen=True)
class TopK(Sampled):
    """A head that adds each sample's nearest negatives among all proxies.

    Every step scores all C proxies; the loss, the gradients and the update
    cover the active rows only.

    Attributes:
      neighbors: k, nearest negatives per sample.
    """

    neighbors: int

    def near(self, proxies, batch, graph) -> jax.Array:
        """Scores this device's rows; see `Sampled.near`."""
        return hardest.negatives(
            proxies,
            batch,
            self.num_categories,
            self.neighbors,
            self.loss,
            approximate=self.mesh.devices.flat[0].platform == "tpu",
        )
