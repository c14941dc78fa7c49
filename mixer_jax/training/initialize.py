"""The state of step 0: pretrained weights, the stage before, imprinting."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
from jax.sharding import Mesh

from mixer_jax import mesh as mesh_lib
from mixer_jax.data import table
from mixer_jax.models import factory
from mixer_jax.proxies import imprint
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.training import checkpoints
from mixer_jax.training import state as state_lib
from mixer_jax.training import workdir as workdir_lib
from mixer_jax.training.inputs import Content
from mixer_jax.training.setup import Setup
from mixer_jax.training.state import TrainState

PyTree = Any

_INIT = 2**32 - 1  # no step has this number


def initial_state(
    setup: Setup,
    variables: PyTree,
    content: Content,
    console: rich.console.Console | None = None,
) -> TrainState:
    """Returns the state that a stage starts from.

    1. Proxies: random unit rows; or, imprinted, each category's mean
       embedding over the training samples.
    2. With `init_from`, the rows of categories that the stage before had
       already are copied from it.
    3. The class graph is built from these proxies.

    Args:
      setup: of the stage.
      variables: from `initial_variables`.
      content: of the training samples.
      console: is told what takes long; default standard output.

    Raises:
      UserError: if the checkpoint of the stage before does not fit.
    """
    config, mesh = setup.config, setup.mesh
    category_ids = setup.inputs.category_ids
    _, proxy_key = _keys(config.seed)
    proxies = rows_lib.init_proxies(
        proxy_key, len(category_ids), config.model.dim, mesh
    )
    old_ids = (
        workdir_lib.read_categories(config.init_from)
        if config.init_from
        else []
    )
    if config.proxies.init == "imprint" and old_ids != category_ids:
        rows = _imprinted(setup)
        console = console or rich.console.Console()
        console.print(
            f"{config.name}: embedding {len(rows):,} samples; "
            "proxies start as their categories' means",
            highlight=False,
            soft_wrap=True,
        )
        proxies = _imprint(setup, content, variables, proxies, rows)
    if config.init_from:
        old = checkpoints.load_proxies(config.init_from, config.model.dim, mesh)
        proxies = copy_rows(proxies, old, category_ids, old_ids, mesh)
    graph = setup.head.build_graph(proxies)
    return state_lib.create(
        setup.rates,
        setup.optimizer,
        setup.row_optimizer,
        variables,
        proxies,
        graph,
        mesh,
    )


def copy_rows(
    proxies: jax.Array,
    old: jax.Array,
    category_ids: Sequence[str],
    old_ids: Sequence[str],
    mesh: Mesh,
) -> jax.Array:
    """Copies the proxies of the categories that both lists have.

    Args:
      proxies: f32 `[C_pad, D]`, kept for new categories.
      old: f32 `[C'_pad, D]`.
      category_ids: C ids, of the rows of `proxies`.
      old_ids: C' ids, of the rows of `old`.
      mesh: both are split over it by rows.
    """
    place = {category: row for row, category in enumerate(old_ids)}
    index = np.full(proxies.shape[0], -1, np.int32)
    index[: len(category_ids)] = [place.get(c, -1) for c in category_ids]

    @functools.partial(jax.jit, out_shardings=mesh_lib.rows(mesh))
    def copy(proxies: jax.Array, old: jax.Array) -> jax.Array:
        rows = old[jnp.maximum(index, 0)]
        return jnp.where((index >= 0)[:, None], rows, proxies)

    return copy(proxies, old)


def _keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of the model and of the proxies."""
    key = jax.random.fold_in(jax.random.key(seed), _INIT)
    return tuple(jax.random.split(key))


def initial_variables(setup: Setup) -> PyTree:
    """Returns `params` and `batch_stats`, on every device of the mesh.

    Random, then pretrained weights over them; or, with `init_from`, those of
    the stage before.

    Raises:
      UserError: if the checkpoint of the stage before does not fit.
    """
    config, mesh = setup.config, setup.mesh
    if config.init_from:
        wanted = {
            "params": setup.state.params,
            "batch_stats": setup.state.batch_stats,
        }
        return checkpoints.load_variables(config.init_from, wanted)
    init = jax.jit(
        functools.partial(factory.init_variables, setup.model, setup.config),
        out_shardings=mesh_lib.replicated(mesh),
    )
    variables = factory.load_pretrained(
        init(_keys(config.seed)[0]), config.model
    )
    return jax.device_put(variables, mesh_lib.replicated(mesh))


def _imprinted(setup: Setup) -> np.ndarray:
    """Returns the rows of the frame whose embeddings proxies start from."""
    frame = setup.inputs.frame
    rows = np.arange(len(frame))
    if most := setup.config.proxies.imprint_samples:
        order = frame.groupby(["category_id", "role"]).cumcount()
        rows = rows[order < most]
    return rows


def _imprint(
    setup: Setup,
    content: Content,
    variables: PyTree,
    proxies: jax.Array,
    rows: np.ndarray,
) -> jax.Array:
    """Replaces proxies by the mean embedding of each category's samples."""
    config, mesh, data = setup.config, setup.mesh, setup.inputs
    labels = table.labels(data.frame, data.category_ids)
    sums = imprint.init(len(data.category_ids), config.model.dim, mesh)
    size = mesh_lib.padded_rows(config.evaluate.batch_size, mesh)

    @functools.partial(
        jax.jit, static_argnames="role", out_shardings=mesh_lib.rows(mesh)
    )
    def embed(variables: PyTree, batch: PyTree, role: str) -> jax.Array:
        return setup.model.apply(variables, batch, method=f"encode_{role}")

    for role in (table.QUERY, table.DOCUMENT):
        for batch in content.evaluation_batches(role, size, rows):
            label = labels[batch["index"]]
            arrays = mesh_lib.put_batch(
                {"batch": batch[role], "label": label, "mask": batch["mask"]},
                mesh,
            )
            sums = imprint.add(
                sums,
                embed(variables, arrays["batch"], role),
                arrays["label"],
                arrays["mask"],
                mesh,
            )
    return imprint.finish(sums, proxies)
