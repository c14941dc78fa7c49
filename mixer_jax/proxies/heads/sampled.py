"""A head over the positives and random rows; the base of `knn` and `topk`.

These heads score an active set of rows. They differ in the source of hard
negatives: none, the class graph, or the current proxies. A step computes the
exact softmax over the active rows, and reads and writes only these rows of the
proxies and moments.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import active_set, interface, softmax
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A head over positives and uniform random rows; an `interface.Head`.

    See An et al., "Killing Two Birds with One Stone: Efficient and Robust
    Training of Face Recognition CNNs by Partial FC", arXiv 2203.15565.

    Attributes:
      loss: settings of the softmax.
      mesh: the mesh that the batch and the proxies are split over.
      num_categories: C.
      active: M, the number of active rows per device.
      uniform: minimum number of active rows drawn at random.
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
        """Number of proxy rows on each device, including padding."""
        return rows_lib.per_device(self.num_categories, self.mesh)

    def check(self, batch_size: int) -> None:
        """Checks that every positive of a batch of this size can be active.

        Raises:
          UserError: if a device may own more positives than active rows.
        """
        needed = min(batch_size, self.rows)
        if self.active < needed:
            raise UserError(
                f"config.head.active activates {self.active} of the "
                f"{self.rows} proxies on each device, but a batch of "
                f"{batch_size} may need {needed} of them as positives; set "
                f"it to {math.ceil(1e6 * needed / self.rows) / 1e6} or more, "
                "or make the batch smaller."
            )

    @property
    def graph_shape(self) -> jax.ShapeDtypeStruct | None:
        """None, because this head has no graph."""

    def build_graph(self, proxies: jax.Array) -> interface.Graph:
        """Returns None, because this head has no graph."""

    def near(
        self, proxies: jax.Array, batch: softmax.Batch, graph: interface.Graph
    ) -> jax.Array:
        """Finds hard negatives for each sample, inside `jax.shard_map`.

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
    def select(self, given: interface.HeadInput) -> jax.Array:
        """Returns the active rows; see `interface.Head`."""

        def select(given: interface.HeadInput) -> jax.Array:
            batch = softmax.gather(self.loss, given)
            return self._select(given, batch, rows_lib.own_key(given.key))[0]

        return interface.on_each_device(
            select, self.mesh, jax.P(meshes.AXIS), given
        )

    def step(
        self, optimizer: interface.RowOptimizer, given: interface.HeadInput
    ) -> interface.HeadStep:
        """Updates the active rows; see `interface.Head`."""

        def step(given: interface.HeadInput) -> interface.HeadStep:
            batch = softmax.gather(self.loss, given)
            start, count = rows_lib.own(self.num_categories, len(given.proxies))
            key = rows_lib.own_key(given.key)
            rows, weights = self._select(given, batch, key)
            target = jnp.searchsorted(rows, batch.labels - start)
            candidates = rows[jnp.minimum(target, self.active - 1)]
            here = candidates == batch.labels - start
            active = softmax.Active(
                rows,
                jnp.minimum(count, self.active),
                jnp.where(here, target, softmax.ABSENT),
                weights if self.importance else None,
            )
            # Derive another key: the selection has already used this one.
            key = jax.random.fold_in(key, 2)
            return softmax.update(
                self.loss, optimizer, given._replace(key=key), batch, active
            )

        return interface.on_each_device(
            step, self.mesh, interface.STEP_SPECS, given
        )

    def _select(self, given, batch, key):
        """Returns this device's active rows and their weights."""
        self.check(len(batch.labels))
        start, count = rows_lib.own(self.num_categories, self.rows)
        return active_set.select(
            key,
            batch.labels,
            self.near(given.proxies, batch, given.graph),
            start,
            count,
            self.active,
            self.uniform,
        )
