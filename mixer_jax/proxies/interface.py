"""What a head and a row optimizer are: read this before the other modules.

Shapes: B batch, C categories, C_pad their rows padded to a multiple of the
devices, D embedding, K neighbours, M active rows a device, n devices.

A training step differentiates the model itself (`jax.vjp`) and hands the
embeddings to the head, which returns their gradient and has by then updated
the proxies. So a head may pick rows by the embeddings, may fuse the update of
a block of rows with the pass that makes its gradient, and never has to build
a gradient of the size of the proxies::

    head = heads.make_head(config.head, mesh, num_categories, batch_size)
    optimizer = row_optimizers.sgd(momentum=0.9)
    proxies = rows.init_proxies(key, num_categories, dim, mesh)
    moments = optimizer.init(proxies)
    graph = head.build_graph(proxies)  # again every config.head.refresh steps

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, proxies, moments, graph, batch, labels, key):
        embeddings, pullback = jax.vjp(lambda p: apply(p, batch), params)
        out = head.step(
            optimizer, proxies, moments, embeddings, labels, graph, key, 0.1
        )
        (gradient,) = pullback(out.d_embeddings)
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)
        return params, out.proxies, out.moments, out.metrics
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Moments = Any  # pytree of arrays `[C_pad, ...]`, split like the proxies
Graph = jax.Array | None  # int32 [C_pad, K], or None for heads without one


class RowOptimizer(NamedTuple):
    """An optimizer that sees some of the rows at a time.

    Attributes:
      init: `proxies [R, D] -> moments`, a pytree whose leaves have R rows.
      update: `(gradients f32 [R, D], moments, rows [R, D], learning_rate, key)
        -> (rows, moments)`, for any R, row by row. It returns rows, not the
        difference to them, so that rounding and norms are its own affair.
        The PRNG key is for those that round by chance.
    """

    init: Callable[[jax.Array], Moments]
    update: Callable[
        [jax.Array, Moments, jax.Array, jax.typing.ArrayLike, jax.Array],
        tuple[jax.Array, Moments],
    ]


class HeadStep(NamedTuple):
    """What one step of a head leaves.

    Attributes:
      loss: f32 scalar, the mean over the batch.
      d_embeddings: f32 `[B, D]`, the loss's gradient, split like the batch.
      proxies: f32 `[C_pad, D]`, after the update.
      moments: the optimizer's rows, after the update.
      metrics: f32 scalars: `loss`; `accuracy`, the share of samples nearer to
        their own proxy than to any other active one; `target_cosine`, the mean
        cosine to the own proxy; `negative_cosine`, the mean cosine to the
        nearest other active one.
    """

    loss: jax.Array
    d_embeddings: jax.Array
    proxies: jax.Array
    moments: Moments
    metrics: dict[str, jax.Array]


class Head(Protocol):
    """Embeddings and labels in, loss out, proxies updated.

    Heads are frozen dataclasses of static settings: hashable, without arrays.
    Embeddings need not be normalized; gradients run through the normalization
    of both sides.
    """

    def check(self, batch_size: int) -> None:
        """Raises UserError if a batch of this size could lose a positive."""

    @property
    def graph_shape(self) -> jax.ShapeDtypeStruct | None:
        """The graph's shape, dtype and sharding, to restore it into."""

    def build_graph(self, proxies: jax.Array) -> Graph:
        """Builds the class graph of the proxies `[C_pad, D]`.

        It is jitted; every call of one head runs the same program.
        """

    def select(
        self,
        proxies: jax.Array,
        embeddings: jax.Array,
        labels: jax.Array,
        graph: Graph,
        key: jax.Array,
    ) -> jax.Array:
        """Returns the rows that `step` compares with, given the same key.

        For those who watch: a step selects by itself.

        Returns:
          int32 `[n * M]`, split over the devices: each one's M row numbers
          within its own part of the proxies, sorted and unique. Rows of
          padding come last and only where a device has no other left.
        """

    def step(
        self,
        optimizer: RowOptimizer,
        proxies: jax.Array,
        moments: Moments,
        embeddings: jax.Array,
        labels: jax.Array,
        graph: Graph,
        key: jax.Array,
        learning_rate: jax.typing.ArrayLike,
        margins: jax.Array | None = None,
    ) -> HeadStep:
        """Computes the loss and its gradients, and updates the active rows.

        Traceable; call it inside a jitted step that donates proxies and
        moments, which are then updated in place.

        Args:
          optimizer: updates the active rows.
          proxies: f32 or bf16 `[C_pad, D]`, split over the mesh by rows;
            with sub-centres `[C_pad, n D]`, a category's side by side.
          moments: `optimizer.init(proxies)`, or what a step before returned.
          embeddings: `[B, D]`, split over the mesh by rows.
          labels: int32 `[B]` in `[0, C)`, split like the embeddings.
          graph: what `build_graph` returned.
          key: a PRNG key of this step's own.
          learning_rate: f32 scalar, of this step.
          margins: f32 `[B]`, each sample's own margin size, split like the
            embeddings; None is the config's for all.
        """
