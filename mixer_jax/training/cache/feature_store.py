"""Cached outputs of frozen encoders for a stage's samples.

    FOLDER/patches.npy  bf16 [images, P, Ci], as uint16
    FOLDER/vectors.npy  bf16 [texts, L, Ct], as uint16
    FOLDER/mask.npy     bool [texts, L]

Each image and text is stored once, however many samples contain it. The arrays
are memory-mapped, so that a step reads only the rows of its batch. An
interrupted store is completed, a damaged one is repaired, and a store of
other samples or encoders is replaced; see `array_files`.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.tables import table
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training.cache import array_files, stored
from mixer_jax.training.inputs import Inputs
from mixer_jax.training.optimizer import ENCODERS

PyTree = Any

_FORMAT = 2  # version of the file format


class FeatureStore(stored.StoredContent):
    """The features of a frame's rows; see `make`."""

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        config: ConfigDict,
        content: str = "",
    ):
        """Opens the arrays of a complete folder."""
        super().__init__(inputs, config, content)
        self._patches, self._vectors, self._mask = (
            np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("patches", "vectors", "mask")
        )
        self._image = _places(inputs.frame["image"])
        self._text = _places(inputs.frame["text"])
        if self._text.max(initial=-1) >= len(self._vectors):
            self._text[:] = -1  # The model reads no text.

    def batch(self, rows: np.ndarray, role: str) -> stored.Batch:
        """Returns the inputs that `Mixer` takes instead of images and texts.

        Args:
          rows: int [B], positions in the frame; -1 for an empty sample.
          role: "query" or "document".

        Returns:
          bf16 `patches` [B, P, Ci]; for documents also `has_image` bool [B],
          `token_vectors` bf16 [B, L, Ct] and `token_mask` bool [B, L].
        """
        rows = np.asarray(rows)
        image = np.where(rows >= 0, self._image[rows], -1)
        batch = {"patches": _take(self._patches, image)}
        if role == table.DOCUMENT:
            text = np.where(rows >= 0, self._text[rows], -1)
            mask = self._mask[np.maximum(text, 0)] & (text >= 0)[:, None]
            batch |= {
                "has_image": image >= 0,
                "token_vectors": _take(self._vectors, text),
                "token_mask": mask,
            }
        return batch


def make(
    folder: str | os.PathLike,
    inputs: Inputs,
    config: ConfigDict,
    model: nn.Module,
    variables: PyTree,
    mesh: Mesh,
    say: array_files.Say,
) -> FeatureStore:
    """Encodes every image and text of a frame that is not in the store yet.

    Args:
      folder: the folder of the store.
      inputs: the frame, the folder of its images and the tokenizer.
      config: the stage's config.
      model: the model with the encoders.
      variables: `params` and `batch_stats` of the model.
      mesh: the mesh that batches are split over.
      say: called with messages about the size and about damaged blocks.

    Raises:
      UserError: if the disk has too little space (gives both sizes) or cannot
        be written to, or if an image cannot be read.
    """
    folder = Path(folder)
    encoders = encoders_only(variables)
    images = _first(inputs.frame, "image")
    texts = _first(inputs.frame, "text")
    files = _files(len(images), len(texts), config, model, encoders)
    content = array_files.prepare_from_data(
        folder,
        files,
        inputs.examine(),
        functools.partial(_key, config, encoders),
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
    if "text_encoder" in encoders["params"]:
        array_files.fill(
            folder,
            ("vectors", "mask"),
            len(texts),
            lambda rows: _encode_texts(
                inputs, texts[rows], config, model, encoders, mesh
            ),
            say,
        )
    return FeatureStore(folder, inputs, config, content)


def encoders_only(variables: PyTree) -> PyTree:
    """Returns the variables of the encoders."""
    return {
        collection: {k: v for k, v in tree.items() if k in ENCODERS}
        for collection, tree in variables.items()
    }


def output_shape(
    model: nn.Module,
    variables: PyTree,
    method: str,
    *inputs: jax.ShapeDtypeStruct,
) -> tuple[int, ...]:
    """Returns the shape of the output of one of the model's methods."""
    out = jax.eval_shape(
        lambda v, *x: model.apply(v, *x, method=method), variables, *inputs
    )
    return out.shape


def _first(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Returns the first row of each distinct value of a column, except ""."""
    values = frame[column]
    return np.flatnonzero((values != "") & ~values.duplicated())


def _places(values: pd.Series) -> np.ndarray:
    """Returns the index of each value in the order of `_first`; -1 for ""."""
    codes, _ = pd.factorize(values.where(values != ""))
    return codes


def _key(config: ConfigDict, encoders: PyTree, content: str) -> str:
    model = (config.model.image.name, config.model.text.name)
    return stored.key(_FORMAT, config, encoders, model, content)


def _files(
    images: int,
    texts: int,
    config: ConfigDict,
    model: nn.Module,
    encoders: PyTree,
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns `{file: (shape, dtype)}`; empty files have one row of zeros."""
    size, length = config.data.image_size, config.data.text_length
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)

    def shape(method: str, *inputs: jax.ShapeDtypeStruct) -> tuple[int, ...]:
        return output_shape(model, encoders, method, *inputs)[1:]

    files = {
        "patches": (
            (max(images, 1), *shape("encode_images", pixels)),
            "uint16",
        ),
        "vectors": ((1, length, 1), "uint16"),
        "mask": ((max(texts, 1), length), "bool"),
    }
    if "text_encoder" in encoders["params"]:
        tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
        mask = jax.ShapeDtypeStruct((1, length), bool)
        vectors = shape("encode_texts", tokens, mask)
        files["vectors"] = ((max(texts, 1), *vectors), "uint16")
    return files


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

    frame = inputs.frame.iloc[rows].assign(role=table.QUERY)
    for patches in stored.compute(
        encode, frame, table.QUERY, inputs, config, encoders, mesh
    ):
        yield {"patches": patches}


def _encode_texts(
    inputs: Inputs,
    rows: np.ndarray,
    config: ConfigDict,
    model: nn.Module,
    encoders: PyTree,
    mesh: Mesh,
) -> Iterator[dict[str, np.ndarray]]:
    @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
    def encode(encoders: PyTree, tokens: jax.Array, mask: jax.Array):
        out = model.apply(encoders, tokens, mask, method="encode_texts")
        return out.astype(jnp.bfloat16)

    texts = inputs.frame["text"].to_numpy()[rows]
    step = mesh_lib.padded_rows(config.evaluate.batch_size, mesh)
    for start in range(0, len(texts), step):
        some = list(texts[start : start + step])
        tokens, mask = inputs.tokenizer(some + [""] * (step - len(some)))
        arrays = jax.device_put((tokens, mask), mesh_lib.rows(mesh))
        vectors = np.asarray(encode(encoders, *arrays))
        yield {"vectors": vectors[: len(some)], "mask": mask[: len(some)]}


def _take(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns rows of an array as bf16; index -1 gives zeros."""
    rows = array[np.maximum(places, 0)]
    rows[places < 0] = 0
    return rows.view(jnp.bfloat16)
