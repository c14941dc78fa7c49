"""Creates the state that a stage starts from."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables import table
from mixer_jax.models import factory
from mixer_jax.proxies import imprint
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import progress, terminal
from mixer_jax.runtime.mesh import AXIS
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import checkpoints
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.inputs import Content
from mixer_jax.training.setup import Setup
from mixer_jax.training.state import TrainState

PyTree = Any

_INIT = 2**32 - 1  # larger than any step number


def initial_state(
    setup: Setup,
    variables: PyTree,
    content: Content,
    console: terminal.Console | None = None,
) -> TrainState:
    """Returns the state that a stage starts from.

    1. Proxies start as random unit rows or, if imprinted, as each category's
       mean embedding over the training samples.
    2. With `init_from`, the proxies of categories that the previous stage had
       are copied from it, whatever their order; their samples are not embedded.
       Rows of removed categories are dropped.
    3. The class graph is built from these proxies.

    Args:
      setup: the stage's setup.
      variables: from `initial_variables`.
      content: the training samples.
      console: the output for progress; standard output by default.

    Raises:
      UserError: if the checkpoint of the previous stage does not fit.
    """
    config, mesh = setup.config, setup.mesh
    category_ids = setup.inputs.samples.category_ids
    _, proxy_key = _keys(config.seed)
    proxies = rows_lib.init_proxies(
        proxy_key,
        len(category_ids),
        config.model.dim,
        mesh,
        config.head.subcenters,
        setup.state.proxies.dtype,
    )
    old_ids = (
        workdir_lib.read_categories(config.init_from)
        if config.init_from
        else []
    )
    source = pd.Index(old_ids, dtype=object).get_indexer(category_ids)
    new = source < 0
    console = console or terminal.Console()
    say = functools.partial(terminal.say, console=console)
    same = np.array_equal(source, np.arange(len(old_ids)))
    if config.init_from and not same:
        kept = len(new) - new.sum()
        say(
            f"{config.name}: {kept:,} proxies come from {config.init_from}; "
            f"{new.sum():,} categories are new, {len(old_ids) - kept:,} removed"
        )
    if config.proxies.init == "imprint" and new.any():
        rows = _imprinted(setup, new)
        label = "new proxies" if config.init_from else "proxies"
        say(
            f"{config.name}: embedding {len(rows):,} samples; "
            f"{label} start as their categories' means"
        )
        proxies = _imprint(setup, content, variables, proxies, rows)
    if config.init_from:
        old = checkpoints.load_proxies(config.init_from, proxies.shape[1], mesh)
        proxies = copy_rows(proxies, old, source, mesh)
    graph = setup.head.build_graph(proxies)
    return state_lib.create(
        setup.rates,
        setup.optimizer,
        setup.row_optimizer,
        variables,
        proxies,
        graph,
        mesh,
        average=config.optimizer.average > 0,
        rules=config.sharding,
    )


def copy_rows(
    proxies: jax.Array, old: jax.Array, source: np.ndarray, mesh: Mesh
) -> jax.Array:
    """Returns proxies with rows replaced by those of another matrix.

    Args:
      proxies: `[C_pad, D]`, kept for new categories; donated.
      old: `[C'_pad, D]`, of any dtype.
      source: int `[C]`, the row of `old` for each category; -1 for new ones.
      mesh: the mesh that all arrays are split over by rows.
    """
    source = np.pad(
        source, (0, len(proxies) - len(source)), constant_values=-1
    ).astype(np.int32)
    return _copy(
        proxies, old, jax.device_put(source, mesh_lib.rows(mesh)), mesh
    )


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="proxies")
def _copy(
    proxies: jax.Array, old: jax.Array, source: jax.Array, mesh: Mesh
) -> jax.Array:
    # Pass the shards of `old` once around the devices: indexing the global
    # array would replicate all of its rows on every device.
    def copy(proxies, old, source):
        size, home = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
        ring = [(device, (device - 1) % size) for device in range(size)]

        def hop(step, carry):
            proxies, visiting = carry
            local = source - (home + step) % size * len(old)
            here = (local >= 0) & (local < len(old))
            rows = visiting[jnp.clip(local, 0, len(old) - 1)]
            rows = rows.astype(proxies.dtype)
            proxies = jnp.where(here[:, None], rows, proxies)
            return proxies, jax.lax.ppermute(visiting, AXIS, ring)

        return jax.lax.fori_loop(0, size, hop, (proxies, old))[0]

    split = jax.P(AXIS)
    return jax.shard_map(
        copy, mesh=mesh, in_specs=(split,) * 3, out_specs=split
    )(proxies, old, source)


def _keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the PRNG keys of the model and of the proxies."""
    key = jax.random.fold_in(jax.random.key(seed), _INIT)
    return tuple(jax.random.split(key))


def initial_variables(setup: Setup) -> PyTree:
    """Returns the initial `params` and `batch_stats`.

    Variables without pretrained weights are random, and all are replicated.
    With `init_from`, the variables are loaded from the previous stage and laid
    out as in the state.

    Raises:
      UserError: if the checkpoint of the previous stage does not fit.
    """
    config, mesh = setup.config, setup.mesh
    if config.init_from:
        wanted = setup.state.variables
        return checkpoints.load_variables(config.init_from, wanted)
    init = jax.jit(
        functools.partial(factory.init_variables, setup.model, setup.config),
        out_shardings=mesh_lib.replicated(mesh),
    )
    variables = factory.load_pretrained(
        init(_keys(config.seed)[0]), config.model
    )
    return jax.device_put(variables, mesh_lib.replicated(mesh))


def _imprinted(setup: Setup, new: np.ndarray) -> np.ndarray:
    """Returns the ascending rows of samples that proxies are imprinted from.

    Args:
      setup: the stage's setup.
      new: bool `[C]`, true for categories whose proxies are imprinted.
    """
    samples = setup.inputs.samples
    limit = setup.config.proxies.imprint_samples or len(samples)
    chosen = []
    for role, begins in zip(samples_lib.ROLES, samples.begins, strict=True):
        counts = np.minimum(np.where(new, samples.counts(role), 0), limit)
        ends = np.cumsum(counts)
        places = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        places += np.repeat(begins[:-1], counts)
        chosen.append(samples.by_category[places])
    return np.sort(np.concatenate(chosen))


def _imprint(
    setup: Setup,
    content: Content,
    variables: PyTree,
    proxies: jax.Array,
    rows: np.ndarray,
) -> jax.Array:
    """Returns proxies imprinted from the mean embeddings of their samples."""
    config, mesh, samples = setup.config, setup.mesh, setup.inputs.samples
    sums = imprint.init(samples.num_categories, config.model.dim, mesh)
    size = mesh_lib.padded_rows(config.evaluate.batch_size, mesh)

    @functools.partial(
        jax.jit, static_argnames="role", out_shardings=mesh_lib.rows(mesh)
    )
    def embed(variables: PyTree, batch: PyTree, role: str) -> jax.Array:
        return setup.model.apply(variables, batch, method=f"encode_{role}")

    with progress.show("Embedding samples for the proxies", len(rows)) as count:
        for role in (table.QUERY, table.DOCUMENT):
            for batch in content.evaluation_batches(role, size, rows):
                mask, label = batch["mask"], samples.labels[batch["index"]]
                arrays = mesh_lib.put_batch(
                    {"batch": batch[role], "label": label, "mask": mask}, mesh
                )
                sums = imprint.add(
                    sums,
                    embed(variables, arrays["batch"], role),
                    arrays["label"],
                    arrays["mask"],
                    mesh,
                )
                count(mask.sum() * jax.process_count())
    return imprint.finish(sums, proxies)
