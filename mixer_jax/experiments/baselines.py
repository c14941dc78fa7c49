"""Baselines: frozen encoders, plain or with a trained linear map.

- `frozen encoders`: the cosine between mean-pooled EfficientNet-Lite0 patches
  of the query's image and those of the document's image. Nothing is trained.
- `linear map`: one affine map per tower on frozen features (a query's image; a
  document's image and text, concatenated), trained with symmetric InfoNCE on
  the training pairs. Hyper-parameters are the defaults of `LinearMap`, the same
  for every data set.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.tables import table as table_lib
from mixer_jax.models import features
from mixer_jax.retrieval import evaluate
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError

FROZEN = "frozen encoders"
LINEAR = "linear map"
IMAGE_ENCODER = "efficientnet-lite0"
TEXT_ENCODER = "minilm"
TEXT_LENGTH = 64  # tokens; longer texts are truncated


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """Hyper-parameters of the linear map."""

    dim: int = 256  # D, dimension of the shared space
    steps: int = 400
    batch_size: int = 512  # pairs; capped at the number of training pairs
    learning_rate: float = 1e-3  # initial value; decays to zero
    weight_decay: float = 1e-2
    temperature: float = 0.05
    seed: int = 0


class Features(NamedTuple):
    """Frozen features, keyed by image path and by text."""

    images: dict[str, np.ndarray]  # path -> f32 [Ci]
    texts: dict[str, np.ndarray]  # text -> f32 [Ct]

    def query(self, frame: pd.DataFrame, root: str | os.PathLike) -> np.ndarray:
        """Returns image features `[N, Ci]`; zeros without an image."""
        return look_up(self.images, image_paths(frame, root))

    def document(
        self, frame: pd.DataFrame, root: str | os.PathLike
    ) -> np.ndarray:
        """Returns concatenated image and text features `[N, Ci + Ct]`."""
        texts = look_up(self.texts, list(frame["text"]))
        return np.concatenate([self.query(frame, root), texts], axis=1)


def measure_baselines(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    training: pd.DataFrame,
    training_root: str | os.PathLike,
    image_size: int,
    settings: ConfigDict,
    mesh: Mesh,
    linear: LinearMap | None = None,
) -> list[evaluate.Row]:
    """Evaluates both baselines in the same way as models.

    Args:
      frame: the samples to evaluate on, see `evaluate.read`.
      root: the folder of their images.
      training: the training split for the linear map.
      training_root: the folder of its images.
      image_size: the side of the encoders' input, in pixels, as for the models.
      settings: the `evaluate` section of a config.
      mesh: the devices that search the documents.
      linear: hyper-parameters; the defaults if None.

    Returns:
      The rows of `evaluate.evaluate`; their seconds cover ranking only, and
      `stage` is "".

    Raises:
      UserError: if there are fewer than two training pairs or the encoders'
        weights are not installed.
    """
    linear = linear or LinearMap()
    queries, documents = training_pairs(training, linear.seed)
    if len(queries) < 2:
        raise UserError(
            "The linear map needs at least two training queries with a "
            "document of their category."
        )
    known = frozen_features(
        [(frame, root), (training, training_root)], image_size
    )
    towers = train_linear_map(
        known.query(training.iloc[queries], training_root),
        known.document(training.iloc[documents], training_root),
        np.unique(training["category_id"], return_inverse=True)[1][queries],
        linear,
    )

    def frozen(rows: pd.DataFrame) -> np.ndarray:
        return known.query(rows, root)

    def mapped(rows: pd.DataFrame) -> np.ndarray:
        role = rows["role"].iloc[0]
        inputs = getattr(known, role)(rows, root)
        return np.asarray(apply_map(towers[role], inputs))

    return [
        row
        for name, embed in ((FROZEN, frozen), (LINEAR, mapped))
        for row in evaluate.evaluate(embed, frame, root, settings, mesh, name)
    ]


def frozen_features(
    frames: list[tuple[pd.DataFrame, str | os.PathLike]], image_size: int
) -> Features:
    """Computes features once for each distinct image and text in some tables.

    Args:
      frames: sample tables and the folders of their images.
      image_size: the side of the encoders' input, in pixels.
    """
    paths = [path for f, root in frames for path in image_paths(f, root)]
    texts = sorted({t for f, _ in frames for t in f["text"]} - {""})
    of_texts = features.text_features(TEXT_ENCODER, texts, TEXT_LENGTH)
    return Features(
        encode_images(paths, image_size),
        dict(zip(texts, normalize(of_texts), strict=True)),
    )


def encode_images(paths: Iterable[str], size: int) -> dict[str, np.ndarray]:
    """Returns the mean patch of each image, of unit length, by its path.

    Args:
      paths: paths of image files; "" is left out.
      size: the side of the encoder's input, in pixels.
    """
    names = sorted({*paths} - {""})
    rows = normalize(features.image_features(IMAGE_ENCODER, names, size))
    return dict(zip(names, rows, strict=True))


def training_pairs(
    frame: pd.DataFrame, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs each query with a random document of its category and part.

    Returns:
      Positions in `frame` of the queries and of their documents, int `[N]`
      each; queries that have no document with another image are left out.
    """
    shuffled = frame.assign(place=np.arange(len(frame))).sample(
        frac=1.0, random_state=seed
    )
    pairs = shuffled[shuffled["role"] == table_lib.QUERY].merge(
        shuffled[shuffled["role"] == table_lib.DOCUMENT],
        on=["split", "category_id"],
        suffixes=("_query", "_document"),
    )
    pairs = pairs[pairs["image_query"] != pairs["image_document"]]
    pairs = pairs.drop_duplicates("place_query").sort_values("place_query")
    return (
        pairs["place_query"].to_numpy(int),
        pairs["place_document"].to_numpy(int),
    )


def symmetric_infonce(
    query_BxD: jax.Array,
    document_BxD: jax.Array,
    label_B: jax.Array,
    temperature: float,
) -> jax.Array:
    """Returns the symmetric InfoNCE loss of a batch of pairs.

    It is the mean of the cross entropies of queries and of documents. Other
    pairs of the same category are not used as negatives.

    Args:
      query_BxD: unit rows.
      document_BxD: unit rows; row i belongs to query i.
      label_B: categories.
      temperature: the divisor of the cosines.

    References:
      Radford et al., "Learning transferable visual models" (arXiv 2103.00020),
      figure 3.
    """
    logits = query_BxD @ document_BxD.T / temperature
    same = label_B[:, None] == label_B[None, :]
    other = same & ~jnp.eye(len(label_B), dtype=bool)
    logits = jnp.where(other, -jnp.inf, logits)
    rows = jax.nn.log_softmax(logits, axis=1)
    columns = jax.nn.log_softmax(logits, axis=0)
    return -(jnp.diagonal(rows) + jnp.diagonal(columns)).mean() / 2


def apply_map(params: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """Maps features `[N, F]` to unit rows `[N, D]`."""
    mapped = inputs @ params["kernel"] + params["bias"][None, :]
    norm = jnp.linalg.norm(mapped, axis=1, keepdims=True)
    return mapped / jnp.maximum(norm, 1e-6)


def train_linear_map(
    query: np.ndarray,
    document: np.ndarray,
    labels: np.ndarray,
    settings: LinearMap,
) -> dict[str, dict[str, jax.Array]]:
    """Trains one affine map per tower on pairs of frozen features.

    Args:
      query: f32 `[N, Fq]`.
      document: f32 `[N, Fd]`; row i belongs to query i.
      labels: int `[N]`, categories.
      settings: hyper-parameters.

    Returns:
      `{"query": params, "document": params}` for `apply_map`.
    """
    rng = np.random.default_rng(settings.seed)
    batch_size = min(settings.batch_size, len(labels))
    needed = settings.steps * batch_size
    epochs = -(-needed // len(labels))
    order = np.concatenate(
        [rng.permutation(len(labels)) for _ in range(epochs)]
    )
    batches = order[:needed].reshape(settings.steps, batch_size)
    # Both towers start from the same random projection of the columns they
    # share, so that initial cosines approximate those of the frozen features.
    width = max(query.shape[1], document.shape[1])
    kernel = rng.normal(size=(width, settings.dim)).astype(np.float32)
    kernel /= np.sqrt(settings.dim)

    def start(inputs: np.ndarray) -> dict[str, np.ndarray]:
        width = inputs.shape[1]
        bias = np.zeros(settings.dim, np.float32)
        return {"kernel": kernel[:width], "bias": bias}

    params = {"query": start(query), "document": start(document)}
    # Features are positive; centering them makes training much faster.
    centers = {"query": query.mean(0), "document": document.mean(0)}
    params = _fit(
        params,
        query - centers["query"][None, :],
        document - centers["document"][None, :],
        labels,
        batches,
        settings,
    )
    return {
        tower: {
            "kernel": p["kernel"],
            "bias": p["bias"] - centers[tower] @ p["kernel"],
        }
        for tower, p in params.items()
    }


@partial(jax.jit, static_argnames="settings")
def _fit(params, query, document, labels, batches, settings):
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(settings.learning_rate, settings.steps),
        weight_decay=settings.weight_decay,
    )

    def loss(params, batch):
        return symmetric_infonce(
            apply_map(params["query"], query[batch]),
            apply_map(params["document"], document[batch]),
            labels[batch],
            settings.temperature,
        )

    def step(carry, batch):
        params, state = carry
        grads = jax.grad(loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry, _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return carry[0]


def image_paths(frame: pd.DataFrame, root: str | os.PathLike) -> list[str]:
    """Returns the absolute path of each sample's image; "" for no image."""
    root = pathlib.Path(root).absolute()
    return [str(root / image) if image else "" for image in frame["image"]]


def look_up(
    known: Mapping[str, np.ndarray], names: Iterable[str]
) -> np.ndarray:
    """Returns the vectors of some names, f32 `[N, F]`; zeros for ""."""
    width = len(next(iter(known.values()), ()))
    nothing = np.zeros(width, np.float32)
    rows = [known[name] if name else nothing for name in names]
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)
