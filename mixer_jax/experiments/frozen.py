"""Frozen encoders, and their stored features of a data set.

The features are computed once per data set; see `feature_store`.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.data.tables import table
from mixer_jax.experiments import fusions
from mixer_jax.experiments.baselines import IMAGE_ENCODER, TEXT_ENCODER
from mixer_jax.experiments.folds import Fold
from mixer_jax.models import factory
from mixer_jax.runtime import identity
from mixer_jax.runtime.arrays import normalize
from mixer_jax.training.cache.feature_store import FeatureStore
from mixer_jax.training.checkpoint.checkpoints import Trained
from mixer_jax.training.config import defaults

_BLOCK = 512  # samples pooled at once


def load(image_size: int, text_length: int) -> Trained:
    """Returns the pretrained encoders, with untrained towers.

    The towers have the settings of configs/quickstart.py.

    Args:
      image_size: the side of scaled images, in pixels.
      text_length: the maximum number of tokens; longer texts are truncated.

    Raises:
      UserError: if the weights are not installed.
    """
    config = defaults.defaults()
    config.precision = "float32"  # fastest on CPUs
    config.data.image_size = image_size
    config.data.text_length = text_length
    model = config.model
    model.image.name = model.image.pretrained = IMAGE_ENCODER
    model.text.name = model.text.pretrained = TEXT_ENCODER
    model.image.batch_norm, model.image.chunk = "frozen", 8
    model.slots, model.memory_norm = 256, "slots"
    factory.check_pretrained(model)
    factory.resolve(config)
    module = factory.make_model(model)
    init = functools.partial(factory.init_variables, module, config)
    variables = jax.jit(init)(jax.random.key(0))
    variables = factory.load_pretrained(variables, model)
    return Trained(config, module, variables, [], 0)


def encode(
    encoders: Trained,
    folds: Sequence[Fold],
    folder: str | os.PathLike,
    mesh: Mesh,
    say: Callable[[str], None],
) -> FeatureStore:
    """Returns the features of all samples of a data set.

    Args:
      encoders: see `load`.
      folds: the folds of the data set.
      folder: the folder of the features; those of other data are replaced.
      mesh: the devices to split batches over.
      say: called with messages about the features.
    """
    frame = pd.concat([fold.frame for fold in folds], ignore_index=True)
    return fusions.encode(
        encoders,
        frame,
        pathlib.Path(folder),
        mesh,
        content=identity.hash_texts(frame["digest"], frame["text"]),
        say=say,
    )


def pooled_images(features: FeatureStore, frame: pd.DataFrame) -> np.ndarray:
    """Returns mean patches of unit length, f32 [N, Ci]; zero without image."""
    return _pooled(frame, lambda places: _mean_patches(features, places))


def pooled_documents(features: FeatureStore, frame: pd.DataFrame) -> np.ndarray:
    """Returns pooled image and text, f32 [N, Ci + Ct]; each of unit length."""

    def pool(places: np.ndarray) -> np.ndarray:
        batch = features.batch(places, table.DOCUMENT)
        vectors = batch["token_vectors"].astype(np.float32)
        mask = batch["token_mask"][..., None]
        total = (vectors * mask).sum(1)
        texts = normalize(total / np.maximum(mask.sum(1), 1))
        return np.concatenate([_mean_patches(features, places), texts], axis=1)

    return _pooled(frame, pool)


def _mean_patches(features: FeatureStore, places: np.ndarray) -> np.ndarray:
    patches = features.batch(places, table.QUERY)["patches"]
    return normalize(patches.astype(np.float32).mean(1))


def _pooled(
    frame: pd.DataFrame, pool: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    places = frame["place"].to_numpy()
    starts = range(0, len(places), _BLOCK)
    return np.concatenate([pool(places[s : s + _BLOCK]) for s in starts])
