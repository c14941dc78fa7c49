"""What another fusion would do: baselines on a trained model's encoders.

The encoders stay as the model has them; towers, fusion and proxies are made
anew and trained on patches and token vectors that are computed once. So the
fusions compared have the same encoders, and these were fine-tuned for ours.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax import mesh as mesh_lib
from mixer_jax.data import images, table, text
from mixer_jax.models import factory
from mixer_jax.proxies import heads, imprint
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.sparse_sgd import sparse_sgd
from mixer_jax.retrieval import evaluate
from mixer_jax.training import optimizer as optimizer_lib
from mixer_jax.training import state as state_lib
from mixer_jax.training import step as step_lib
from mixer_jax.training.checkpoints import Trained

FUSIONS = {"image only": "image_only", "average fusion": "average"}
STEPS = 200
BATCH = 256  # half queries, half documents
LEARNING_RATE = 1e-3
MOST = 20_000  # training samples of a role; more are thinned out by chance
ENCODERS = ("image_encoder", "text_encoder")

Batch = dict[str, dict[str, np.ndarray]]


class Encoded(NamedTuple):
    """What the encoders make of some files and texts, each once.

    Attributes:
      patches: path -> bf16 `[P, Ci]`; "" is zeros.
      vectors: text -> (bf16 `[L, Ct]`, bool `[L]`); "" is all masked.
    """

    patches: dict[str, np.ndarray]
    vectors: dict[str, tuple[np.ndarray, np.ndarray]]

    def batch(self, queries: Sequence[str], documents: pd.DataFrame) -> Batch:
        """Returns what `Mixer` takes in place of images and texts.

        Args:
          queries: paths, B of them.
          documents: B rows with the columns `path` and `text`.
        """
        vectors, mask = zip(
            *(self.vectors[x] for x in documents.text), strict=True
        )

        def stack(rows: Sequence[np.ndarray]) -> np.ndarray:
            # CPUs reduce bfloat16 many times slower than float32.
            return np.stack(rows).astype(np.float32)

        return {
            "query": {"patches": stack([self.patches[x] for x in queries])},
            "document": {
                "patches": stack([self.patches[x] for x in documents.path]),
                "has_image": (documents.path != "").to_numpy(),
                "token_vectors": stack(vectors),
                "token_mask": np.stack(mask),
            },
        }


def measure_fusions(
    trained: Trained,
    frame: pd.DataFrame,
    root: str | os.PathLike,
    training: pd.DataFrame,
    training_root: str | os.PathLike,
    mesh: Mesh,
) -> list[evaluate.Row]:
    """Trains and measures the model with each of the other `FUSIONS`.

    Args:
      trained: the model whose encoders are taken.
      frame: what is measured, see `evaluate.read`.
      root: its images' folder.
      training: the checked training split.
      training_root: its images' folder.
      mesh: of training and search.

    Returns:
      The rows of `evaluate.evaluate`; their `stage` is "", and their seconds
      leave out encoding and training.
    """
    rng = np.random.default_rng(trained.config.seed)
    training = _thin(with_paths(training, training_root), rng)
    frame = with_paths(frame, root)
    encoded = encode(trained, pd.concat([frame, training]))
    rows = []
    for name, fusion in FUSIONS.items():
        embed = train(trained, fusion, encoded, training, rng, mesh)
        rows += evaluate.evaluate(
            embed, frame, root, trained.config.evaluate, mesh, name
        )
    return rows


def with_paths(frame: pd.DataFrame, root: str | os.PathLike) -> pd.DataFrame:
    """Adds the column `path`: the image's whole path, "" where none is."""
    root = pathlib.Path(root).absolute()
    return frame.assign(path=[str(root / x) if x else "" for x in frame.image])


def encode(trained: Trained, frame: pd.DataFrame) -> Encoded:
    """Runs the trained encoders once over each image and text of a table."""
    config = trained.config
    size, step = config.data.image_size, config.evaluate.batch_size
    tokenizer = text.load(config.data.tokenizer, config.data.text_length)

    def run(method: str) -> Callable[..., np.ndarray]:
        def apply(variables: Any, *inputs: jax.Array) -> jax.Array:
            out = trained.model.apply(variables, *inputs, method=method)
            return out.astype(jnp.bfloat16)

        jitted = jax.jit(apply)

        def padded(*inputs: np.ndarray) -> np.ndarray:
            rows = len(inputs[0])
            inputs = [np.resize(x, (step, *x.shape[1:])) for x in inputs]
            return np.asarray(jitted(trained.variables, *inputs))[:rows]

        return padded

    encode_images, encode_texts = run("encode_images"), run("encode_texts")
    paths = sorted(set(frame.path) - {""})
    texts = sorted(set(frame.text) | {""})
    patches = {}
    for start in range(0, len(paths), step):
        some = paths[start : start + step]
        pixels = np.stack([images.decode(path, size) for path in some])
        patches |= zip(some, encode_images(pixels), strict=True)
    patches[""] = np.zeros_like(next(iter(patches.values())))
    vectors = {}
    for start in range(0, len(texts), step):
        some = texts[start : start + step]
        tokens, mask = tokenizer(some)
        pairs = zip(encode_texts(tokens, mask), mask, strict=True)
        vectors |= zip(some, pairs, strict=True)
    return Encoded(patches, vectors)


def train(
    trained: Trained,
    fusion: str,
    encoded: Encoded,
    training: pd.DataFrame,
    rng: np.random.Generator,
    mesh: Mesh,
) -> evaluate.Embed:
    """Trains towers, fusion and proxies; returns how to embed samples."""
    queries = training[training.role == table.QUERY]
    documents = training[training.role == table.DOCUMENT]
    ids = table.category_index(training)
    labels = {
        "query": table.labels(queries, ids),
        "document": table.labels(documents, ids),
    }
    config = _config(trained.config, fusion)
    model = factory.make_model(config.model, jnp.dtype(config.precision))
    key = jax.random.key(config.seed)
    params = factory.init_variables(model, config, key)["params"]
    params = {k: v for k, v in params.items() if k not in ENCODERS}

    @jax.jit
    def apply(params: Any, batch: Any) -> dict[str, jax.Array]:
        return model.apply({"params": params}, batch)

    def embed(params: Any, frame: pd.DataFrame) -> np.ndarray:
        """Embeds samples of one role; the other tower's inputs are idle."""
        found = []
        for start in range(0, len(frame), BATCH):
            rows = frame.iloc[start : start + BATCH]
            places = np.resize(np.arange(len(rows)), BATCH)
            some = rows.iloc[places]
            out = apply(params, encoded.batch(some.path, some))
            found.append(np.asarray(out[rows.role.iloc[0]])[: len(rows)])
        return np.concatenate(found)

    proxies = rows_lib.init_proxies(key, len(ids), config.model.dim, mesh)
    sums = imprint.init(len(ids), config.model.dim, mesh)
    for role, frame in (("query", queries), ("document", documents)):
        count = mesh_lib.padded_rows(len(frame), mesh)
        arrays = {
            "embeddings": np.resize(
                embed(params, frame), (count, config.model.dim)
            ),
            "labels": np.resize(labels[role], count),
            "mask": np.arange(count) < len(frame),
        }
        arrays = mesh_lib.put_batch(arrays, mesh)
        sums = imprint.add(sums, **arrays, mesh=mesh)
    head = heads.make_head(config.head, mesh, len(ids), BATCH)
    rates = optimizer_lib.multiples(params, config.optimizer.parts)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, rates)
    row_optimizer = sparse_sgd(
        config.proxies.momentum, config.proxies.weight_decay
    )
    state = state_lib.create(
        rates,
        optimizer,
        row_optimizer,
        {"params": params},
        imprint.finish(sums, proxies),
        None,
        mesh,
    )
    step = step_lib.make_train_step(
        config, model, head, optimizer, row_optimizer, rates, state, mesh
    )
    for _ in range(STEPS):
        q = rng.integers(len(queries), size=BATCH // 2)
        d = rng.integers(len(documents), size=BATCH // 2)
        batch = encoded.batch(queries.path.iloc[q], documents.iloc[d])
        batch["query"]["label"] = labels["query"][q]
        batch["document"]["label"] = labels["document"][d]
        state, _ = step(state, mesh_lib.put_batch(batch, mesh))
    params = jax.device_get(state.params)
    return lambda frame: embed(params, frame)


def _config(config: ConfigDict, fusion: str) -> ConfigDict:
    """Returns the model's config with another fusion, all of it trained."""
    config = config.copy_and_resolve_references()
    config.model.fusion = fusion
    config.steps = STEPS
    config.head.name = "exact"
    config.optimizer.parts = ()
    config.optimizer.learning_rate = LEARNING_RATE
    return config


def _thin(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Keeps at most `MOST` samples of each role, by chance."""
    order = rng.permutation(len(frame))
    roles = frame.iloc[order].groupby("role", sort=False)
    return frame.iloc[np.sort(order[roles.cumcount().to_numpy() < MOST])]
