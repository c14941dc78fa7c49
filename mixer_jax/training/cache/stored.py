"""Code shared by both stores: batches of stored rows, keys, and samples."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.stream import pipeline
from mixer_jax.runtime import identity
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training.cache import array_files
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.inputs import Inputs

PyTree = Any
Batch = dict[str, np.ndarray]


class StoredContent:
    """An `inputs.Content` that reads stored arrays.

    Subclasses define `batch(rows, role)`, which reads the given rows.
    """

    def __init__(self, inputs: Inputs, config: ConfigDict, content: str = ""):
        """Stores the samples, the config and the hash of the data."""
        self._inputs, self._config, self.content = inputs, config, content

    def train_batches(self) -> grain.DatasetIterator:
        """Returns this process's endless training batches."""
        config = self._config

        def load(row: int, role: str, rng: None) -> dict:
            del rng  # Stored arrays cannot be augmented.
            return {"row": row, "role": role}

        def stack(samples: Sequence[dict]) -> Batch:
            rows = np.array([sample["row"] for sample in samples])
            label = np.array([sample["label"] for sample in samples])
            return self.batch(rows, samples[0]["role"]) | {"label": label}

        return pipeline.train_stream(
            self._inputs.frame,
            self._inputs.category_ids,
            load,
            stack,
            batch_size=config.batch_size,
            random=False,
            sampling=config_lib.sampling(config.data),
            seed=config.seed,
            # Nothing is decoded, so worker processes would not help.
            threads=config.data.threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def evaluation_batches(
        self, role: str, batch_size: int, rows: np.ndarray
    ) -> Iterator[dict]:
        """Yields batches of some rows of one role; see `inputs.Content`."""
        role_rows = self._inputs.frame["role"].to_numpy()[rows] == role
        rows = np.asarray(rows)[role_rows]
        rows = np.pad(rows, (0, -len(rows) % batch_size), constant_values=-1)
        size = batch_size // jax.process_count()
        first = jax.process_index() * size
        for start in range(first, len(rows), batch_size):
            some = rows[start : start + size]
            yield {
                role: self.batch(some, role),
                "mask": some >= 0,
                "index": some,
            }


def key(
    kind: int | str,
    config: ConfigDict,
    variables: PyTree,
    model: tuple[str, ...],
    content: str,
) -> str:
    """Returns the key of a store's arrays; see `array_files.prepare`.

    Args:
      kind: identifies the kind and the format of the arrays.
      config: the stage's config.
      variables: the variables that the arrays depend on.
      model: descriptions of the parts of the model that they depend on.
      content: the hash of the rows and images.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    parts = (
        kind,
        array_files.BLOCK,
        config.data.image_size,
        config.data.text_length,
        identity.hash_folder(config.data.tokenizer) or config.data.tokenizer,
        config.precision,
        *model,
        content,
    )
    digest.update(json.dumps(parts).encode())
    return digest.hexdigest()


def compute(
    encode: Callable[[PyTree, PyTree], jax.Array],
    frame: pd.DataFrame,
    role: str,
    inputs: Inputs,
    config: ConfigDict,
    variables: PyTree,
    mesh: Mesh,
) -> Iterator[np.ndarray]:
    """Yields the outputs of `encode` for the samples of a role, in order.

    Args:
      encode: maps variables and a batch of the role to outputs `[B, ...]`.
      frame: the samples.
      role: "query" or "document".
      inputs: the folder of the images and the tokenizer.
      config: the stage's config.
      variables: the first argument of `encode`.
      mesh: the mesh that batches are split over.
    """
    # Replicated, because every process stores all rows.
    encode = jax.jit(encode, out_shardings=mesh_lib.replicated(mesh))
    batches = pipeline.evaluation_batches(
        frame,
        pipeline.FileSource(frame, inputs.root),
        role,
        inputs.tokenizer,
        image_size=config.data.image_size,
        batch_size=mesh_lib.padded_rows(config.evaluate.batch_size, mesh),
        threads=config.data.threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    encoded = (
        encode(variables, mesh_lib.put_batch(batch[role], mesh))
        for batch in batches
    )
    for outputs in mesh_lib.one_behind(encoded):
        yield np.asarray(outputs)
