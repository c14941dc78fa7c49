"""The training state: the pytree that a training step takes and returns."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from mixer_jax.proxies.interface import RowOptimizer
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import sharding
from mixer_jax.training.optimizer import merge, pick, split
from mixer_jax.training.sharding import Rules

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """The complete state of a run, except for the data iterator's position.

    It holds no PRNG keys: a step's keys are derived from the config's seed and
    `step`. Proxies, their state and the graph have C_pad rows, one per
    category, split over the mesh; parameters are laid out by `config.sharding`,
    and the rest is replicated.
    """

    step: jax.Array  # int32 []: steps taken
    skipped: jax.Array  # int32 []: current number of non-finite steps in a row
    params: PyTree  # f32
    batch_stats: PyTree  # f32
    opt_state: PyTree  # for the trainable parameters only
    proxies: jax.Array  # f32 [C_pad, D]
    proxy_state: PyTree  # f32 [C_pad, ...]: the row optimizer's state
    graph: jax.Array | None  # int32 [C_pad, K]; None if the head has none
    # f32: running averages of the trainable parameters; {} if disabled.
    average: PyTree = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> PyTree:
        """The variables for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def shardings(state: PyTree, mesh: Mesh, rules: Rules = ()) -> PyTree:
    """Returns the sharding of each leaf of a (possibly abstract) state.

    Args:
      state: a state whose leaves have shapes.
      mesh: the device mesh.
      rules: the sharding rules for parameters, their optimizer state and their
        averages; see `sharding`.
    """

    def fill(tree: PyTree, layout: NamedSharding) -> PyTree:
        return jax.tree.map(lambda _: layout, tree)

    rows = mesh_lib.rows(mesh)
    return fill(state, mesh_lib.replicated(mesh)).replace(
        params=sharding.layouts(state.params, mesh, rules),
        opt_state=sharding.layouts(state.opt_state, mesh, rules),
        average=sharding.layouts(state.average, mesh, rules),
        proxies=fill(state.proxies, rows),
        proxy_state=fill(state.proxy_state, rows),
        graph=fill(state.graph, rows),
    )


def abstract(state: PyTree, mesh: Mesh, rules: Rules = ()) -> PyTree:
    """Returns the state as ShapeDtypeStructs with their shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        shardings(state, mesh, rules),
    )


def fresh(
    rates: dict[str, float],
    optimizer: optax.GradientTransformation,
    row_optimizer: RowOptimizer,
    variables: PyTree,
    proxies: jax.Array,
    graph: jax.Array | None,
    average: bool = False,
) -> TrainState:
    """Returns the state at step 0; works under `jax.jit` and `jax.eval_shape`.

    Args:
      rates: `{path: learning-rate multiple}` of the parameters.
      optimizer: the optimizer of the trainable parameters.
      row_optimizer: the optimizer of the proxies.
      variables: `params` and, if the model has them, `batch_stats`.
      proxies: f32 `[C_pad, D]`.
      graph: int32 `[C_pad, K]` or None.
      average: whether to keep averages of the trainable parameters.
    """
    trainable, _ = split(variables["params"], rates)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(trainable),
        proxies=proxies,
        proxy_state=row_optimizer.init(proxies),
        graph=graph,
        # Copies, because the step donates parameters and averages.
        average=jax.tree.map(jnp.copy, trainable) if average else {},
    )


def create(
    rates: dict[str, float],
    optimizer: optax.GradientTransformation,
    row_optimizer: RowOptimizer,
    variables: PyTree,
    proxies: jax.Array,
    graph: jax.Array | None,
    mesh: Mesh,
    average: bool = False,
    rules: Rules = (),
) -> TrainState:
    """Returns the state of `fresh`, computed under jit as global arrays.

    Proxies and graph are donated.
    """
    make = functools.partial(
        fresh, rates, optimizer, row_optimizer, average=average
    )
    arrays = (variables, proxies, graph)
    out = shardings(jax.eval_shape(make, *arrays), mesh, rules)
    return jax.jit(make, donate_argnums=(1, 2), out_shardings=out)(*arrays)


def to_items(state: TrainState) -> dict[str, PyTree]:
    """Returns the checkpoint items of a state, by name.

    `model` holds the variables for inference. If its parameters are averages,
    `training` also holds the parameters being trained.
    """
    training = {
        "step": state.step,
        "skipped": state.skipped,
        "opt_state": state.opt_state,
        "proxy_state": state.proxy_state,
        "graph": state.graph,
    }
    if state.average:
        training["trained"] = pick(state.params, state.average)
    return {
        "model": {
            "params": merge(state.params, state.average),
            "batch_stats": state.batch_stats,
        },
        "training": training,
        "proxies": {"proxies": state.proxies},
    }


def from_items(items: dict[str, PyTree], like: TrainState) -> TrainState:
    """Returns the state from items; it has an average if `like` does."""
    model, training = dict(items["model"]), dict(items["training"])
    average = {}
    if like.average:
        average = pick(model["params"], like.average)
        model["params"] = merge(model["params"], training.pop("trained"))
    return TrainState(**model, **training, **items["proxies"], average=average)
