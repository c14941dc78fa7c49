"""Interfaces of heads and row optimizers; read this module first.

Shapes: B batch, C categories, C_pad categories padded to a multiple of the
devices, D embedding, K neighbors, M active rows per device, n devices (or, in
`n D`, sub-centers per category).

A training step differentiates only the model (`jax.vjp`) and passes the
embeddings to the head, which updates the proxies and returns the embeddings'
gradient. A head can therefore select rows by the embeddings, fuse the update
of a block of rows with the computation of its gradient, and avoid
materializing a gradient as large as the proxies::

    head = heads.make_head(config.head, mesh, num_categories, batch_size)
    optimizer = row_optimizers.sgd(momentum=0.9)
    proxies = rows.init_proxies(key, num_categories, dim, mesh)
    moments = optimizer.init(proxies)
    graph = head.build_graph(proxies)  # rebuild every config.head.refresh steps

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, proxies, moments, graph, batch, labels, key):
        embeddings, pullback = jax.vjp(lambda p: apply(p, batch), params)
        out = head.step(
            optimizer,
            HeadInput(
                proxies=proxies,
                moments=moments,
                embeddings=embeddings,
                labels=labels,
                graph=graph,
                key=key,
                learning_rate=0.1,
            ),
        )
        (gradient,) = pullback(out.d_embeddings)
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)
        return params, out.proxies, out.moments, out.metrics
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
from jax.sharding import Mesh

from mixer_jax.runtime.mesh import AXIS

Moments = Any  # pytree of arrays `[C_pad, ...]`, split like the proxies
Graph = jax.Array | None  # int32 [C_pad, K], or None for heads without a graph


class RowOptimizer(NamedTuple):
    """An optimizer that updates only some rows at a time.

    Attributes:
      init: `proxies [R, D] -> moments`, a pytree whose leaves have R rows.
      update: `(gradients f32 [R, D], moments, rows [R, D], learning_rate, key)
        -> (rows, moments)`, for any R, independently for each row. It returns
        the new rows rather than their changes, so that it controls rounding
        and norms. The PRNG key is for stochastic rounding.
    """

    init: Callable[[jax.Array], Moments]
    update: Callable[
        [jax.Array, Moments, jax.Array, jax.typing.ArrayLike, jax.Array],
        tuple[jax.Array, Moments],
    ]


class HeadInput(NamedTuple):
    """The input of one step of a head.

    Attributes:
      proxies: f32 or bf16 `[C_pad, D]`, split over the mesh by rows; with
        sub-centers `[C_pad, n D]`, those of each category side by side.
      embeddings: `[B, D]`, split over the mesh by rows.
      labels: int32 `[B]` in `[0, C)`, split like the embeddings.
      key: a PRNG key, different for each step.
      graph: the result of `build_graph`.
      moments: `optimizer.init(proxies)`, or the previous step's result.
      learning_rate: f32 scalar, for this step.
      margins: f32 `[B]`, margin sizes per sample, split like the embeddings;
        None uses the config's size for all.
    """

    proxies: jax.Array
    embeddings: jax.Array
    labels: jax.Array
    key: jax.Array
    graph: Graph = None
    moments: Moments = None
    learning_rate: jax.typing.ArrayLike = 0.0
    margins: jax.Array | None = None


class HeadStep(NamedTuple):
    """The result of one step of a head.

    Attributes:
      loss: f32 scalar, the mean over the batch.
      d_embeddings: `[B, D]`, the gradient of the loss, with the dtype and the
        sharding of the embeddings.
      proxies: f32 or bf16 `[C_pad, n D]`, after the update.
      moments: the optimizer's moments, after the update.
      metrics: f32 scalars: `loss`; `accuracy`, the share of samples nearer to
        their own proxy than to any other active one; `target_cosine`, the mean
        cosine to the sample's own proxy; `negative_cosine`, the mean cosine to
        the nearest other active proxy.
    """

    loss: jax.Array
    d_embeddings: jax.Array
    proxies: jax.Array
    moments: Moments
    metrics: dict[str, jax.Array]


class Head(Protocol):
    """A head, which computes a loss from embeddings and updates the proxies.

    Heads are frozen dataclasses of static settings: hashable, without arrays.
    Embeddings need not be normalized; gradients include the normalization of
    embeddings and proxies.
    """

    def check(self, batch_size: int) -> None:
        """Raises UserError if a batch may have inactive positives."""

    @property
    def graph_shape(self) -> jax.ShapeDtypeStruct | None:
        """The graph's shape, dtype and sharding, for restoring a checkpoint."""

    def build_graph(self, proxies: jax.Array) -> Graph:
        """Builds the class graph of the proxies `[C_pad, D]`.

        This method is jitted; all calls on a head run the same program.
        """

    def select(self, given: HeadInput) -> jax.Array:
        """Returns the rows that `step` activates, given the same key.

        This method is for monitoring: `step` selects its rows itself. Moments,
        learning rate and margins are not used.

        Returns:
          int32 `[n * M]`, split over the devices: M row numbers per device
          within its own part of the proxies, sorted and unique. Padding
          rows come last, and only if a device has no other rows left.
        """

    def step(self, optimizer: RowOptimizer, given: HeadInput) -> HeadStep:
        """Computes the loss and its gradients, and updates the active rows.

        The method is traceable; call it inside a jitted step that donates
        proxies and moments, which are then updated in place.

        Args:
          optimizer: updates the active rows.
          given: the state of the proxies, and the batch.
        """


# Typed as Any because the fields below are annotated as arrays.
_SPLIT: Any = jax.P(AXIS)
_WHOLE: Any = jax.P()
_INPUT_SPECS = HeadInput(
    proxies=_SPLIT,
    embeddings=_SPLIT,
    labels=_SPLIT,
    key=_WHOLE,
    graph=_SPLIT,
    moments=_SPLIT,
    learning_rate=_WHOLE,
    margins=_SPLIT,
)
STEP_SPECS = HeadStep(
    loss=_WHOLE,
    d_embeddings=_SPLIT,
    proxies=_SPLIT,
    moments=_SPLIT,
    metrics=_WHOLE,
)
_Result = TypeVar("_Result")


def on_each_device(
    function: Callable[[HeadInput], _Result],
    mesh: Mesh,
    out_specs: Any,
    given: HeadInput,
) -> _Result:
    """Calls a function with each device's part of a head's input.

    Args:
      function: runs inside `jax.shard_map` over the mesh axis.
      mesh: the mesh that the batch and the proxies are split over.
      out_specs: the partition specs of the result; `STEP_SPECS` for a
        `HeadStep`.
      given: the whole input.
    """
    return jax.shard_map(
        function, mesh=mesh, in_specs=(_INPUT_SPECS,), out_specs=out_specs
    )(given)
