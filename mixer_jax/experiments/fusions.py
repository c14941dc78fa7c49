"""Baselines with other fusions, on a trained model's encoders.

The model's encoders stay frozen; new towers, fusion and proxies are trained on
precomputed patches and token vectors. All fusions thus share the same encoders,
which were fine-tuned for the model's own fusion. The towers start whitened.
"""

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import samples as samples_lib
from mixer_jax.data.tables import table
from mixer_jax.experiments.baselines import image_paths
from mixer_jax.models import factory, whitening
from mixer_jax.proxies import heads, imprint, row_optimizers
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.retrieval import evaluate
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import progress
from mixer_jax.training import inputs
from mixer_jax.training import optimizer as optimizer_lib
from mixer_jax.training import state as state_lib
from mixer_jax.training import step as step_lib
from mixer_jax.training.cache import feature_store
from mixer_jax.training.checkpoint.checkpoints import Trained

FUSIONS = {"image only": "image_only", "average fusion": "average"}
BATCH = 256  # half queries, half documents
LEARNING_RATE = 1e-3
SEEDS = 3  # number of training runs averaged per fusion
MAX_SAMPLES = 20_000  # maximum training samples per role, drawn at random


def measure_fusions(
    trained: Trained,
    frame: pd.DataFrame,
    root: str | os.PathLike,
    training: pd.DataFrame,
    training_root: str | os.PathLike,
    mesh: Mesh,
) -> list[evaluate.Row]:
    """Trains and evaluates the model with each of `FUSIONS`.

    Args:
      trained: the model whose encoders are used.
      frame: the samples to evaluate on, see `evaluate.read`.
      root: the folder of their images.
      training: the checked training split.
      training_root: the folder of its images.
      mesh: the devices for training and search.

    Returns:
      The rows of `evaluate.evaluate`, averaged over `SEEDS` training runs;
      their `stage` is "", and their seconds exclude encoding and training.
    """
    rng = np.random.default_rng(trained.config.seed)
    training = _thin(with_paths(training, training_root), rng)
    frame = with_paths(frame, root)
    both = pd.concat([frame, training]).assign(
        place=np.arange(len(frame) + len(training))
    )
    frame, training = both[: len(frame)], both[len(frame) :]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        encoded = encode(trained, both, folder, mesh)
        for name, fusion in FUSIONS.items():
            config = make_config(trained.config, fusion)
            seeds = range(config.seed, config.seed + SEEDS)
            runs = [
                evaluate.evaluate(
                    fitted.embed, frame, root, config.evaluate, mesh, name
                )
                for fitted in train(
                    config, encoded, training, rng, mesh, seeds, whitened=True
                )
            ]
            rows += [_mean(same) for same in zip(*runs, strict=True)]
    return rows


def _mean(rows: tuple[evaluate.Row, ...]) -> evaluate.Row:
    """Averages the metrics of rows that are otherwise identical."""
    measures = {
        name: float(np.mean([row[name] for row in rows]))
        for name in (*evaluate.MEASURES, "seconds")
        if rows[0][name] is not None  # relevance is None without groups
    }
    return rows[0] | measures


def with_paths(frame: pd.DataFrame, root: str | os.PathLike) -> pd.DataFrame:
    """Adds a column `path`: the image's absolute path, "" for no image."""
    paths = image_paths(frame, root)
    # The dtype is object because folder names may not be valid UTF-8.
    return frame.assign(path=pd.Series(paths, frame.index, dtype=object))


def encode(
    trained: Trained,
    frame: pd.DataFrame,
    folder: str | os.PathLike,
    mesh: Mesh,
    *,
    content: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> feature_store.FeatureStore:
    """Computes the encoders' features of each image and text of a table.

    Args:
      trained: the model.
      frame: samples with the column `path`, see `with_paths`.
      folder: the folder for the features.
      mesh: the devices to split batches over.
      content: a hash of the rows and of the images' bytes; a folder with the
        features of the same content is reused.
      say: called with messages about the features.
    """
    config = trained.config
    frame = frame.assign(image=frame.path)
    samples = inputs.Inputs(
        samples=samples_lib.from_frame(frame),
        source=pipeline.FileSource(frame, "/"),
        tokenizer=text.load(config.data.tokenizer, config.data.text_length),
        content=content,
    )
    return feature_store.make(
        folder,
        samples,
        config,
        trained.model,
        trained.variables,
        mesh,
        say,
    )


class Fitted(NamedTuple):
    """Towers, fusion and proxies, trained on features.

    Attributes:
      embed: embeds samples of one role, which need the column `place`.
      proxies: `[C_pad, n D]`.
      category_ids: the category IDs of the proxies' rows.
      step_seconds: mean wall time per step, without the first step, which
        compiles; 0 with a single step.
    """

    embed: evaluate.Embed
    proxies: jax.Array
    category_ids: list[str]
    step_seconds: float = 0.0


def train(
    config: ConfigDict,
    encoded: feature_store.FeatureStore,
    training: pd.DataFrame,
    rng: np.random.Generator,
    mesh: Mesh,
    seeds: Sequence[int],
    whitened: bool = False,
) -> Iterator[Fitted]:
    """Trains new towers, a new fusion and new proxies with each seed.

    All seeds share the compiled programs.

    Args:
      config: a stage's config: model, head, optimizer, `steps`, `batch_size`.
      encoded: the features of all samples.
      training: samples with the column `place`, their row in `encoded`.
      rng: draws the batches.
      mesh: the devices to train on.
      seeds: determine the initial values and the dropout, instead of
        `config.seed`.
      whitened: whether both towers start from a whitening of the image; see
        `models.whitening`.

    Yields:
      The result of each seed.
    """
    samples = {
        role: training[training.role == role]
        for role in (table.QUERY, table.DOCUMENT)
    }
    ids = table.category_index(training)
    labels = {role: table.labels(rows, ids) for role, rows in samples.items()}
    batch_size = config.batch_size
    model = factory.make_model(config.model, jnp.dtype(config.precision))
    init = jax.jit(functools.partial(_init_towers, model, config))

    @functools.partial(jax.jit, static_argnames="role")
    def apply(params: Any, batch: Any, role: str) -> jax.Array:
        return model.apply({"params": params}, batch, method=f"encode_{role}")

    def embed(params: Any, frame: pd.DataFrame) -> np.ndarray:
        """Embeds samples of one role."""
        blocks, role = [], frame.role.iloc[0]
        for start in range(0, len(frame), batch_size):
            places = frame.place.to_numpy()[start : start + batch_size]
            padded = np.pad(
                places, (0, batch_size - len(places)), constant_values=-1
            )
            out = apply(params, encoded.batch(padded, role), role)
            blocks.append(np.asarray(out)[: len(places)])
        return np.concatenate(blocks)

    def imprinted(params: Any, key: jax.Array) -> jax.Array:
        """Returns new proxies, imprinted with the towers' embeddings."""
        proxies = rows_lib.init_proxies(
            key,
            len(ids),
            config.model.dim,
            mesh,
            config.head.subcenters,
            row_optimizers.rows_dtype(config.proxies),
        )
        sums = imprint.init(len(ids), config.model.dim, mesh)
        for role, rows in samples.items():
            count = mesh_lib.padded_rows(len(rows), mesh)
            arrays = {
                "embeddings": np.resize(
                    embed(params, rows), (count, config.model.dim)
                ),
                "labels": np.resize(labels[role], count),
                "mask": np.arange(count) < len(rows),
            }
            arrays = mesh_lib.put_batch(arrays, mesh)
            sums = imprint.add(sums, **arrays, mesh=mesh)
        return imprint.finish(sums, proxies, mesh)

    head = heads.make_head(config.head, mesh, len(ids), batch_size)
    row_optimizer = row_optimizers.make_optimizer(config.proxies)
    step = None
    moments = _moments(encoded, samples, labels, rng) if whitened else None
    for seed in seeds:
        key = jax.random.key(seed)
        params = init(key)
        if moments is not None:
            params = _whiten(jax.device_get(params), moments)
        proxies = imprinted(params, key)
        rates = optimizer_lib.multiples(
            params, config.optimizer.parts, config.optimizer.layer_decay
        )
        optimizer = optimizer_lib.make_optimizer(config.optimizer, rates)
        state = state_lib.create(
            rates,
            optimizer,
            row_optimizer,
            {"params": params},
            proxies,
            head.build_graph(proxies),
            mesh,
        )
        step = step or step_lib.make_train_step(
            config, model, head, optimizer, row_optimizer, rates, state, mesh
        )
        label, begin = f"Training the fusion {config.model.fusion}", 0.0
        for number in progress.track(range(config.steps), label):
            if number and number % config.head.refresh == 0:
                state = state.replace(graph=head.build_graph(state.proxies))
            batch = {}
            for role, rows in samples.items():
                drawn = rng.integers(len(rows), size=batch_size // 2)
                batch[role] = encoded.batch(rows.place.to_numpy()[drawn], role)
                batch[role]["label"] = labels[role][drawn]
            batch = mesh_lib.put_batch(batch, mesh)
            # jax.random.key also keeps the low bits of a long integer.
            state, _ = step(state, batch, np.int64(seed).astype(np.int32))
            if not number:
                jax.block_until_ready(state)
                begin = time.perf_counter()
        fitted = functools.partial(embed, jax.device_get(state.params))
        seconds = (time.perf_counter() - begin) / max(config.steps - 1, 1)
        seconds = seconds if config.steps > 1 else 0.0
        yield Fitted(fitted, state.proxies, ids, seconds)


def _whiten(params: Any, moments: whitening.Moments) -> Any:
    """Returns whitened parameters; unchanged if no pairs differ."""
    found = whitening.solve(moments, params["query_layers"]["linear"]["kernel"])
    return params if found is None else whitening.apply(params, found)


def _moments(
    encoded: feature_store.FeatureStore,
    samples: Mapping[str, pd.DataFrame],
    labels: Mapping[str, np.ndarray],
    rng: np.random.Generator,
) -> whitening.Moments | None:
    """Returns the moments of a pair for each query; None without pairs."""
    queries, documents = (
        samples[role] for role in (table.QUERY, table.DOCUMENT)
    )
    of_query, of_document = labels[table.QUERY], labels[table.DOCUMENT]
    order = np.argsort(of_document, kind="stable")
    first, last = (
        np.searchsorted(of_document[order], of_query, side)
        for side in ("left", "right")
    )
    answered = np.flatnonzero(first < last)
    drawn = order[rng.integers(first[answered], last[answered])]
    # A pair of one image says nothing about how pairs differ.
    other = (
        queries.path.to_numpy()[answered] != documents.path.to_numpy()[drawn]
    )
    pairs = {
        table.QUERY: queries.place.to_numpy()[answered[other]],
        table.DOCUMENT: documents.place.to_numpy()[drawn[other]],
    }
    moments, add = None, jax.jit(whitening.add)
    for start in range(0, int(other.sum()), BATCH):
        query, document = (
            encoded.batch(places[start : start + BATCH], role)
            for role, places in pairs.items()
        )
        means = [one["patches"].mean(1) for one in (query, document)]
        if moments is None:
            moments = whitening.start(means[0].shape[1])
        moments = add(moments, *means, document["has_image"])
    return moments


def _init_towers(model: nn.Module, config: ConfigDict, key: jax.Array) -> Any:
    """Returns new parameters for everything except the encoders.

    Under jit, the encoders' forward pass is unused and thus eliminated.
    """
    params = factory.init_variables(model, config, key)["params"]
    return {k: v for k, v in params.items() if k not in optimizer_lib.ENCODERS}


def make_config(config: ConfigDict, fusion: str) -> ConfigDict:
    """Returns a model's config with another fusion, for `train`."""
    config = config.copy_and_resolve_references()
    config.model.fusion = fusion
    config.steps = config.evaluate.baseline_steps
    config.batch_size = BATCH
    config.head.name = "exact"
    config.optimizer.parts = ()
    config.optimizer.learning_rate = LEARNING_RATE
    return config


def _thin(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Keeps at most `MAX_SAMPLES` random samples of each role."""
    order = rng.permutation(len(frame))
    roles = frame.iloc[order].groupby("role", sort=False)
    kept = roles.cumcount().to_numpy() < MAX_SAMPLES
    return frame.iloc[np.sort(order[kept])]
