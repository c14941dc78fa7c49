"""Cached outputs of frozen encoders for a stage's samples.

    FOLDER/patches.npy  bf16 [images, P, Ci], as uint16
    FOLDER/vectors.npy  bf16 [texts, L, Ct], as uint16
    FOLDER/mask.npy     bool [texts, L]

Each image and text is stored once, however many samples contain it. The arrays
are memory-mapped, so that a step reads only the rows of its batch. An
interrupted store is completed, a damaged one is repaired, and a store of
other samples or encoders is replaced; see `array_files`.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.tables import table
from mixer_jax.training.cache import array_files, stored, text_vectors
from mixer_jax.training.cache.text_vectors import TextVectors
from mixer_jax.training.inputs import Inputs
from mixer_jax.training.optimizer import ENCODERS

PyTree = Any

_FORMAT = 2  # version of the file format


class FeatureStore(stored.StoredContent):
    """The features of the samples; see `make`."""

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        config: ConfigDict,
    ):
        """Opens the arrays of a complete folder."""
        super().__init__(inputs, config)
        self._patches = np.load(folder / "patches.npy", mmap_mode="r")
        self._texts = TextVectors(folder, inputs.samples)

    def batch(self, rows: np.ndarray, role: str) -> stored.Batch:
        """Returns the inputs that `Mixer` takes instead of images and texts.

        Args:
          rows: int [B], positions of samples; -1 gives zeros.
          role: "query" or "document".

        Returns:
          bf16 `patches` [B, P, Ci]; for documents also `has_image` bool [B],
          `token_vectors` bf16 [B, L, Ct] and `token_mask` bool [B, L].
        """
        rows = np.asarray(rows)
        image = np.where(rows >= 0, self._inputs.samples.images[rows], -1)
        batch = {"patches": stored.take(self._patches, image)}
        return batch if role == table.QUERY else batch | self.texts(rows)

    def texts(self, rows: np.ndarray) -> stored.Batch:
        """Returns what `batch` adds for documents."""
        rows = np.asarray(rows)
        image = np.where(rows >= 0, self._inputs.samples.images[rows], -1)
        return {"has_image": image >= 0} | self._texts.read(rows)


def make(
    folder: str | os.PathLike,
    inputs: Inputs,
    config: ConfigDict,
    model: nn.Module,
    variables: PyTree,
    mesh: Mesh,
    say: array_files.Say,
) -> FeatureStore:
    """Encodes every image and text of the samples that is not stored yet.

    Args:
      folder: the folder of the store.
      inputs: the samples and the tokenizer.
      config: the stage's config.
      model: the model with the encoders.
      variables: `params` and `batch_stats` of the model.
      mesh: the mesh over which batches are split.
      say: called with messages about the size and about damaged blocks.

    Raises:
      UserError: if the disk has too little space (gives both sizes) or cannot
        be written to, or if an image cannot be read.
    """
    folder = Path(folder)
    encoders = stored.only(variables, ENCODERS)
    images, texts = inputs.samples.first_image, inputs.samples.first_text
    size = config.data.image_size
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    patches = stored.output_shape(model, encoders, "encode_images", pixels)
    # Empty files have one row of zeros.
    files = {"patches": ((max(len(images), 1), *patches[1:]), "uint16")}
    array_files.prepare(
        folder,
        files | text_vectors.files(len(texts), config, model, encoders),
        _key(config, encoders, inputs.content),
        f"{len(images):,} images and {len(texts):,} texts",
        say,
    )
    array_files.fill(
        folder,
        ("patches",),
        len(images),
        lambda rows: _encode_images(
            inputs, images[rows], config, model, encoders, mesh
        ),
        say,
    )
    text_vectors.fill(folder, inputs, config, model, encoders, mesh, say)
    return FeatureStore(folder, inputs, config)


def _key(config: ConfigDict, encoders: PyTree, content: str) -> str:
    model = (config.model.image.name, config.model.text.name)
    return stored.key(_FORMAT, config, encoders, model, content)


def _encode_images(
    inputs: Inputs,
    rows: np.ndarray,
    config: ConfigDict,
    model: nn.Module,
    encoders: PyTree,
    mesh: Mesh,
) -> Iterator[dict[str, np.ndarray]]:
    def encode(encoders: PyTree, batch: PyTree) -> jax.Array:
        out = model.apply(encoders, batch["image"], method="encode_images")
        return out.astype(jnp.bfloat16)

    for patches in stored.compute(
        encode, rows, table.QUERY, inputs, config, encoders, mesh
    ):
        yield {"patches": patches}
