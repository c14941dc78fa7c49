"""Cached embeddings of a stage's samples, for training only the proxies.

    FOLDER/query.npy     f32 [queries, D], unit embeddings
    FOLDER/document.npy  f32 [documents, D]

If only the proxies are trained, a step needs only the embedding of each sample:
D numbers, instead of the patches and tokens in `feature_store`. Embeddings are
computed, reused and repaired like the features there.
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

from mixer_jax.data.tables.samples import ROLES
from mixer_jax.training.cache import array_files, stored
from mixer_jax.training.inputs import Inputs

PyTree = Any


class EmbeddingStore(stored.StoredContent):
    """The embeddings of the samples; see `make`."""

    def __init__(
        self,
        folder: Path,
        inputs: Inputs,
        config: ConfigDict,
    ):
        """Opens the arrays of a complete folder."""
        super().__init__(inputs, config)
        self._arrays = {
            role: np.load(folder / f"{role}.npy", mmap_mode="r")
            for role in ROLES
        }

    def batch(self, rows: np.ndarray, role: str) -> stored.Batch:
        """Returns the inputs that `Mixer` takes instead of images and texts.

        Args:
          rows: int [B], positions of samples of this role; -1 gives zeros.
          role: "query" or "document".

        Returns:
          `embedding`, f32 [B, D].
        """
        rows = np.asarray(rows)
        # The arrays have the samples of a role in ascending order.
        places = np.searchsorted(self._inputs.samples.of_role(role), rows)
        embeddings = self._arrays[role][np.where(rows >= 0, places, 0)]
        embeddings[rows < 0] = 0
        return {"embedding": embeddings}


def make(
    folder: str | os.PathLike,
    inputs: Inputs,
    config: ConfigDict,
    model: nn.Module,
    variables: PyTree,
    mesh: Mesh,
    say: array_files.Say,
) -> EmbeddingStore:
    """Embeds every sample that is not stored yet.

    Arguments and errors are those of `feature_store.make`, but all variables
    are used.
    """
    folder = Path(folder)
    rows = {role: inputs.samples.of_role(role) for role in ROLES}
    array_files.prepare(
        folder,
        {
            role: ((len(rows[role]), config.model.dim), "float32")
            for role in ROLES
        },
        _key(config, variables, inputs.content),
        " and ".join(f"{len(rows[role]):,} {role}s" for role in ROLES),
        say,
    )
    for role in ROLES:
        array_files.fill(
            folder,
            (role,),
            len(rows[role]),
            functools.partial(
                _embed, role, rows[role], inputs, config, model, variables, mesh
            ),
            say,
        )
    return EmbeddingStore(folder, inputs, config)


def _key(config: ConfigDict, variables: PyTree, content: str) -> str:
    # The variables identify pretrained weights, whatever their path.
    model = config.model.copy_and_resolve_references()
    model.image.pretrained = model.text.pretrained = ""
    parts = (model.to_json_best_effort(),)
    return stored.key("embeddings", config, variables, parts, content)


def _embed(
    role: str,
    of_role: np.ndarray,
    inputs: Inputs,
    config: ConfigDict,
    model: nn.Module,
    variables: PyTree,
    mesh: Mesh,
    rows: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the embeddings of some samples of a role, in order."""

    def embed(variables: PyTree, batch: PyTree) -> jax.Array:
        out = model.apply(variables, batch, method=f"encode_{role}")
        return out.astype(jnp.float32)

    for embeddings in stored.compute(
        embed, of_role[rows], role, inputs, config, variables, mesh
    ):
        yield {role: embeddings}
