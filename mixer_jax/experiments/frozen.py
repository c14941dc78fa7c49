"""Frozen encoders, and their stored features of a data set.

The features are computed once per data set; see `feature_store`. The means of
all patches are also kept in memory: most towers need no more of an image.
Patches are hypercolumns, see `models.encoders.hypercolumns`.
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
from mixer_jax.experiments.folds import Fold, PairSampler
from mixer_jax.models import factory, whitening
from mixer_jax.runtime import identity
from mixer_jax.runtime.arrays import normalize
from mixer_jax.training.cache import stored
from mixer_jax.training.cache.feature_store import FeatureStore
from mixer_jax.training.checkpoint.checkpoints import Trained
from mixer_jax.training.config import defaults

_BLOCK = 512  # samples pooled at once


class Features:
    """The features of the samples of a data set.

    Attributes:
      store: the stored patches and token vectors.
    """

    def __init__(self, store: FeatureStore, count: int):
        """Computes the mean patch of each sample.

        Args:
          store: the features.
          count: the number of samples, N.
        """
        self.store = store
        blocks = []
        for start in range(0, count, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, count))
            patches = store.batch(rows, table.QUERY)["patches"]
            blocks.append(patches.astype(np.float32).mean(1))
        self._means = np.concatenate(blocks)
        self._whitenings: dict[bytes, whitening.Whitening | None] = {}

    def batch(
        self, places: np.ndarray, role: str, *, attends: bool = False
    ) -> stored.Batch:
        """Returns the inputs that `Mixer` takes; see `FeatureStore.batch`.

        Args:
          places: int [B], positions of samples; -1 gives zeros.
          role: "query" or "document".
          attends: whether a document's fusion attends to the patches. If not,
            `patches` is their mean, f32 [B, 1, Ci], as for queries.
        """
        if role == table.DOCUMENT and attends:
            return self.store.batch(places, role)
        means = np.where(places[:, None] >= 0, self._means[places], 0.0)
        patches = {"patches": means[:, None]}
        if role == table.QUERY:
            return patches
        return patches | self.store.texts(places)

    def images(self, frame: pd.DataFrame) -> np.ndarray:
        """Returns mean patches of unit length, f32 [N, Ci]; 0 without image."""
        return normalize(self._means[frame["place"].to_numpy()])

    def whitened(
        self, frame: pd.DataFrame, found: whitening.Whitening
    ) -> np.ndarray:
        """Returns whitened mean patches of one role, unit rows f32 [N, D].

        Args:
          frame: samples of one role; 0 without image.
          found: see `whiten`.
        """
        means = self._means[frame["place"].to_numpy()]
        role = frame["role"].iloc[0]
        center = found.query if role == table.QUERY else found.document
        mapped = normalize((means - center) @ found.kernel)
        return np.where(means.any(1, keepdims=True), mapped, 0.0)

    def whiten(
        self, training: pd.DataFrame, dim: int
    ) -> whitening.Whitening | None:
        """Returns the whitening of the training pairs; see `models.whitening`.

        Methods that train on the same samples share it.

        Args:
          training: the samples; each query is paired with a random document.
          dim: D, the number of directions.

        Returns:
          The whitening; None if there are fewer than two pairs, or if encodings
          do not differ within pairs.
        """
        key = training["place"].to_numpy().tobytes() + bytes(str(dim), "ascii")
        if key not in self._whitenings:
            self._whitenings[key] = self._solve(training, dim)
        return self._whitenings[key]

    def _solve(
        self, training: pd.DataFrame, dim: int
    ) -> whitening.Whitening | None:
        rng = np.random.default_rng(0)
        sampler, places = PairSampler(training), training["place"].to_numpy()
        width = self._means.shape[1]
        moments, add = whitening.start(width), jax.jit(whitening.add)
        ((queries, documents),) = sampler.draw(rng, 1, len(sampler))
        for start in range(0, len(queries), _BLOCK):
            block = slice(start, start + _BLOCK)
            missing = max(0, start + _BLOCK - len(queries))
            query, document = (
                np.pad(self._means[places[rows[block]]], [(0, missing), (0, 0)])
                for rows in (queries, documents)
            )
            mask = query.any(1) & document.any(1)
            moments = add(moments, query, document, mask)
        kernel = rng.normal(size=(width, dim)).astype(np.float32)
        return whitening.solve(moments, kernel)

    def documents(self, frame: pd.DataFrame) -> np.ndarray:
        """Returns `images` and mean token vectors, f32 [N, Ci + Ct].

        Each part has unit length, or is zero if the image or text is missing.
        """
        places, texts = frame["place"].to_numpy(), []
        for start in range(0, len(places), _BLOCK):
            batch = self.store.texts(places[start : start + _BLOCK])
            mask = batch["token_mask"][..., None]
            total = (batch["token_vectors"].astype(np.float32) * mask).sum(1)
            texts.append(normalize(total / np.maximum(mask.sum(1), 1)))
        return np.concatenate([self.images(frame), np.concatenate(texts)], 1)


def load(image_size: int, text_length: int) -> Trained:
    """Returns the pretrained encoders, with untrained towers.

    The towers have the sizes and the concept memory of configs/quickstart.py.

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
    model.image.hypercolumns = True
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
) -> Features:
    """Returns the features of all samples of a data set.

    Args:
      encoders: see `load`.
      folds: the folds of the data set.
      folder: the folder of the features; those of other data are replaced.
      mesh: the devices to split batches over.
      say: called with messages about the features.
    """
    frame = pd.concat([fold.frame for fold in folds], ignore_index=True)
    store = fusions.encode(
        encoders,
        frame,
        pathlib.Path(folder),
        mesh,
        content=identity.hash_texts(frame["digest"], frame["text"]),
        say=say,
    )
    return Features(store, len(frame))
