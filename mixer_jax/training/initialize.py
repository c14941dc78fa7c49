"""Creates the state that a stage starts from."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.models import factory
from mixer_jax.proxies import imprint
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import progress, terminal
from mixer_jax.runtime.tabular import strings
from mixer_jax.training import state as state_lib
from mixer_jax.training import whiten
from mixer_jax.training.checkpoint import checkpoints, row_loading
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.inputs import Content
from mixer_jax.training.setup import Setup
from mixer_jax.training.state import TrainState

PyTree = Any

_INIT = 2**32 - 1  # larger than any step number
_SUMS = 2**26  # maximum bytes per device for the sums of embeddings
_BLOCK = 2**20  # maximum number of categories imprinted together


def initial_state(
    setup: Setup,
    variables: PyTree,
    content: Content,
    console: terminal.Console | None = None,
) -> TrainState:
    """Returns the state that a stage starts from.

    With `model.init`, the towers' maps of the image are whitened first, unless
    another stage has trained them.

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
    console = console or terminal.Console()
    say = functools.partial(terminal.say, console=console)
    if config.model.init == whiten.NAME and not config.init_from:
        variables = whiten.whiten(setup, content, variables, say)
    source = np.full(len(category_ids), -1, np.int32)
    if config.init_from:
        source = _previous_rows(config, category_ids, say)
    new = source < 0
    if config.proxies.init == "imprint" and new.any():
        count = sum(len(rows) for *_, rows in _imprinted(setup, new))
        label = "new proxies" if config.init_from else "proxies"
        say(
            f"{config.name}: embedding {count:,} samples; "
            f"{label} start as their categories' means"
        )
        proxies = _imprint(setup, content, variables, proxies, new, count)
    if config.init_from:
        proxies = row_loading.load_proxies(config.init_from, proxies, source)
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


def _previous_rows(
    config: ConfigDict,
    category_ids: Sequence[str],
    say: Callable[[str], None],
) -> np.ndarray:
    """Returns the row of each category in `init_from`, int32 `[C]`; -1 if new.

    Reports how many categories are new or removed, if any.
    """
    old_ids = workdir_lib.read_categories(config.init_from)
    source = strings.find(category_ids, old_ids)
    if not np.array_equal(source, np.arange(len(old_ids))):
        new = int((source < 0).sum())
        kept = len(source) - new
        say(
            f"{config.name}: {kept:,} proxies come from {config.init_from}; "
            f"{new:,} categories are new, {len(old_ids) - kept:,} removed"
        )
    return source


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


def _imprinted(
    setup: Setup, new: np.ndarray
) -> Iterator[tuple[imprint.Block, str, np.ndarray]]:
    """Yields the samples from which proxies are imprinted.

    The categories are divided into blocks, so that the sums of the embeddings
    and the rows of the samples fit into memory.

    Args:
      setup: the stage's setup.
      new: bool `[C]`, true for categories whose proxies are imprinted.

    Yields:
      A block, a role, and the rows of the role's samples in it.
    """
    samples, mesh = setup.inputs.samples, setup.mesh
    limit = setup.config.proxies.imprint_samples or len(samples)
    size = min(_SUMS // (4 * setup.config.model.dim), _BLOCK // mesh.size)
    for block in imprint.blocks(len(new), max(size, 1), mesh):
        firsts = np.arange(mesh.size) * block.rows
        categories = np.arange(block.start, block.stop)
        categories = (firsts[:, None] + categories).ravel()
        categories = categories[categories < len(new)]
        categories = categories[new[categories]]
        for role, begins in zip(samples_lib.ROLES, samples.begins, strict=True):
            first = begins[categories]
            counts = np.minimum(begins[categories + 1] - first, limit)
            ends = np.cumsum(counts)
            places = np.repeat(first - ends + counts, counts)
            places += np.arange(len(places))
            yield block, role, samples.by_category[places]


def _imprint(
    setup: Setup,
    content: Content,
    variables: PyTree,
    proxies: jax.Array,
    new: np.ndarray,
    total: int,
) -> jax.Array:
    """Returns proxies imprinted from the mean embeddings of their samples."""
    config, mesh, samples = setup.config, setup.mesh, setup.inputs.samples
    size = mesh_lib.padded_rows(config.evaluate.batch_size, mesh)

    @functools.partial(
        jax.jit, static_argnames="role", out_shardings=mesh_lib.rows(mesh)
    )
    def embed(variables: PyTree, batch: PyTree, role: str) -> jax.Array:
        return setup.model.apply(variables, batch, method=f"encode_{role}")

    with progress.show("Embedding samples for the proxies", total) as count:
        by_block = itertools.groupby(_imprinted(setup, new), lambda x: x[0])
        for block, parts in by_block:
            sums = imprint.init(len(new), config.model.dim, mesh, block)
            for _, role, rows in parts:
                rows = np.sort(rows)
                for batch in content.evaluation_batches(role, size, rows):
                    mask, label = batch["mask"], samples.labels[batch["index"]]
                    arrays = mesh_lib.put_batch(
                        {"batch": batch[role], "label": label, "mask": mask},
                        mesh,
                    )
                    sums = imprint.add(
                        sums,
                        embed(variables, arrays["batch"], role),
                        arrays["label"],
                        arrays["mask"],
                        mesh,
                        block,
                    )
                    count(mask.sum() * jax.process_count())
            proxies = imprint.finish(sums, proxies, mesh, block)
    return proxies
