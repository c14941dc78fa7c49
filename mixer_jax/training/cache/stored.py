"""Code shared by all stores: batches of stored rows, keys, and samples."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
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

    def __init__(self, inputs: Inputs, config: ConfigDict):
        """Stores the samples and the config."""
        self._inputs, self._config = inputs, config
        self.content = inputs.content

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
            self._inputs.samples,
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
        rows = self._inputs.samples.select(rows, role)
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
    rows: np.ndarray,
    role: str,
    inputs: Inputs,
    config: ConfigDict,
    variables: PyTree,
    mesh: Mesh,
) -> Iterator[np.ndarray]:
    """Yields the outputs of `encode` for some samples, in order.

    Args:
      encode: maps variables and a batch of the role to outputs `[B, ...]`.
      rows: int, positions of the samples.
      role: the role of the samples in the batch, "query" or "document".
      inputs: the samples and the tokenizer.
      config: the stage's config.
      variables: the first argument of `encode`.
      mesh: the mesh over which batches are split.
    """
    # Replicated, because every process stores all rows.
    encode = jax.jit(encode, out_shardings=mesh_lib.replicated(mesh))
    batches = pipeline.evaluation_batches(
        inputs.source,
        role,
        inputs.tokenizer,
        image_size=config.data.image_size,
        batch_size=mesh_lib.padded_rows(config.evaluate.batch_size, mesh),
        rows=rows,
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


def only(variables: PyTree, parts: Sequence[str]) -> PyTree:
    """Returns the variables of some parts of the model."""
    return {
        collection: {k: v for k, v in tree.items() if k in parts}
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


def take(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns rows of an array as bf16; index -1 gives zeros."""
    rows = array[np.maximum(places, 0)]
    rows[places < 0] = 0
    return rows.view(jnp.bfloat16)
