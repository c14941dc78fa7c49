"""A head over the positives and their neighbors in the class graph."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mixer_jax.proxies import active_set, class_graph
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.heads.sampled import Sampled
from mixer_jax.runtime import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Knn(Sampled):
    """A head that adds the graph neighbors of the batch's categories.

    This is the KNN softmax of Song et al., "Large-Scale Training System for
    100-Million Classification at Alibaba", KDD 2020, with an active set of
    fixed size.

    Attributes:
      neighbors: K, the number of neighbors per category in the class graph.
      graph_products: dtype of the factors of the matrix products that build
        the graph.
    """

    neighbors: int
    graph_products: str = "float32"

    @property
    def graph_shape(self) -> jax.ShapeDtypeStruct:
        """Shape and layout of the graph: int32 `[C_pad, K]`, split by rows."""
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
