"""Stored outputs of a frozen text encoder for a stage's samples.

    FOLDER/vectors.npy  bf16 [texts, L, Ct], as uint16
    FOLDER/mask.npy     bool [texts, L]

Each text is encoded once, however many samples contain it and however many
epochs there are, even in stages that train the image encoder. See
`feature_store` for how the arrays are read, completed, repaired and replaced.
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
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.tables.samples import Samples
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.cache import array_files, stored
from mixer_jax.training.inputs import Inputs
from mixer_jax.training.optimizer import TEXT_ENCODER

PyTree = Any

_FORMAT = "texts 1"  # version of the file format
_NAMES = ("vectors", "mask")


class TextVectors:
    """The token vectors of the samples' texts; see `make`."""

    def __init__(self, folder: Path, samples: Samples):
        """Opens the arrays of a complete folder."""
        self._folder, self._samples = folder, samples
        self._key = array_files.read_key(folder)
        self._open()

    def _open(self) -> None:
        if array_files.read_key(self._folder) != self._key:
            raise UserError(
                f"The stored features in {self._folder} were replaced by those "
                "of another run. Set data.features to a separate folder for "
                "each run."
            )
        self._vectors, self._mask = (
            np.load(self._folder / f"{name}.npy", mmap_mode="r")
            for name in _NAMES
        )
        # A model that reads no text has fewer stored vectors than texts.
        texts = len(self._samples.first_text)
        self._reads_text = texts <= len(self._vectors)

    def __getstate__(self) -> tuple[Path, Samples, str]:
        # A copy in another process maps the same files.
        return self._folder, self._samples, self._key

    def __setstate__(self, state: tuple[Path, Samples, str]) -> None:
        self._folder, self._samples, self._key = state
        self._open()

    def read(self, rows: np.ndarray) -> stored.Batch:
        """Returns the inputs that `Mixer` takes instead of tokens.

        Args:
          rows: int [B], positions of samples; -1 gives zeros.

        Returns:
          `token_vectors` bf16 [B, L, Ct] and `token_mask` bool [B, L].
        """
        rows = np.asarray(rows)
        given = (rows >= 0) & self._reads_text
        text = np.where(given, self._samples.texts[rows], -1)
        mask = self._mask[np.maximum(text, 0)] & (text >= 0)[:, None]
        return {
            "token_vectors": stored.take(self._vectors, text),
            "token_mask": mask,
        }


def make(
    folder: str | os.PathLike,
    inputs: Inputs,
    config: ConfigDict,
    model: nn.Module,
    variables: PyTree,
    mesh: Mesh,
    say: array_files.Say,
) -> TextVectors:
    """Encodes every text of the samples that is not stored yet.

    Arguments and errors are those of `feature_store.make`. The model has a text
    encoder.
    """
    folder = Path(folder)
    encoder = stored.only(variables, (TEXT_ENCODER,))
    count = len(inputs.samples.first_text)
    parts = (config.model.text.name,)
    key = stored.key(_FORMAT, config, encoder, parts, inputs.content)
    arrays = files(count, config, model, encoder)
    array_files.prepare(folder, arrays, key, f"{count:,} texts", say)
    fill(folder, inputs, config, model, encoder, mesh, say)
    return TextVectors(folder, inputs.samples)


def files(
    texts: int, config: ConfigDict, model: nn.Module, variables: PyTree
) -> array_files.Shapes:
    """Returns the shapes and dtypes of the arrays for `texts` texts.

    Empty files have one row of zeros, as do the vectors of a model without a
    text encoder.
    """
    length, count = config.data.text_length, max(texts, 1)
    vectors = (1, length, 1)
    if TEXT_ENCODER in variables["params"]:
        tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
        mask = jax.ShapeDtypeStruct((1, length), bool)
        shape = stored.output_shape(
            model, variables, "encode_texts", tokens, mask
        )
        vectors = (count, *shape[1:])
    return {"vectors": (vectors, "uint16"), "mask": ((count, length), "bool")}


def fill(
    folder: Path,
    inputs: Inputs,
    config: ConfigDict,
    model: nn.Module,
    variables: PyTree,
    mesh: Mesh,
    say: array_files.Say,
) -> None:
    """Computes the missing rows of the arrays; see `array_files.fill`."""
    if TEXT_ENCODER not in variables["params"]:
        return
    texts = inputs.samples.first_text
    array_files.fill(
        folder,
        _NAMES,
        len(texts),
        lambda rows: _encode(
            inputs, texts[rows], config, model, variables, mesh
        ),
        say,
    )


def _encode(
    inputs: Inputs,
    rows: np.ndarray,
    config: ConfigDict,
    model: nn.Module,
    variables: PyTree,
    mesh: Mesh,
) -> Iterator[dict[str, np.ndarray]]:
    @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
    def encode(variables: PyTree, tokens: jax.Array, mask: jax.Array):
        out = model.apply(variables, tokens, mask, method="encode_texts")
        return out.astype(jnp.bfloat16)

    step = mesh_lib.padded_rows(config.evaluate.batch_size, mesh)
    for start in range(0, len(rows), step):
        some = [inputs.source.text(row) for row in rows[start : start + step]]
        tokens, mask = inputs.tokenizer(some + [""] * (step - len(some)))
        arrays = jax.device_put((tokens, mask), mesh_lib.rows(mesh))
        vectors = np.asarray(encode(variables, *arrays))
        yield {"vectors": vectors[: len(some)], "mask": mask[: len(some)]}
