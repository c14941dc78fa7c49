"""Embedding of sample tables with a trained model."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.data.images import checking
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import table
from mixer_jax.runtime import files, paths, progress, results, terminal
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint.checkpoints import Trained

SUFFIX = ".npz"
_FILES = (
    ".csv",
    ".json",
    ".npy",
    ".parquet",
    ".txt",
)  # suffixes of files, not of folders


class Embeddings(NamedTuple):
    """Embeddings of a table's samples: unit rows, in the table's order."""

    query_ids: np.ndarray  # str [Q]
    query_embeddings: np.ndarray  # f32 [Q, D]
    document_ids: np.ndarray  # str [N]
    document_embeddings: np.ndarray  # f32 [N, D]


class Written(NamedTuple):
    """Summary of the embeddings written to a folder or a file.

    Attributes:
      queries: the number of queries.
      documents: the number of documents.
      dim: the number of elements of an embedding.
      skipped: the samples left out.
    """

    queries: int
    documents: int
    dim: int
    skipped: table.Skipped

    def __str__(self) -> str:
        """Returns the counts for a message."""
        return (
            f"{self.queries} queries and {self.documents} documents (vectors "
            f"with {self.dim} elements)"
        )


# The type of `write`, and of functions that write to other destinations.
Write = Callable[..., Written | None]


def make_embedder(
    trained: Trained,
    root: str | os.PathLike,
    mesh: Mesh,
    batch_size: int = 256,
) -> Callable[[pd.DataFrame], np.ndarray]:
    """Returns a function that embeds samples of one role.

    Args:
      trained: the config, model and variables of a workdir.
      root: the folder that the frames' image paths are relative to.
      mesh: the devices that batches are split over.
      batch_size: samples embedded at once; rounded up to the mesh's size.

    Returns:
      A function that maps a frame of N rows to f32 `[N, D]`. It raises a
      `UserError` for an unreadable image or a frame with both roles.

    Raises:
      UserError: if the batch size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"The batch size is {batch_size}; it must be positive.")
    data = trained.config.data
    tokenizer = text.load(data.tokenizer, data.text_length)
    batch_size = mesh_lib.padded_rows(batch_size, mesh)
    replicated = mesh_lib.replicated(mesh)
    variables = jax.device_put(trained.variables, replicated)

    def encode(role: str) -> Callable:
        def forward(variables: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
            embeddings = trained.model.apply(
                variables, batch[role], method=f"encode_{role}"
            )
            return embeddings, batch["index"]

        # Every process gets all rows.
        return jax.jit(forward, out_shardings=replicated)

    forwards = {role: encode(role) for role in (table.QUERY, table.DOCUMENT)}

    def embed(frame: pd.DataFrame) -> np.ndarray:
        roles = set(frame["role"])
        if len(roles) > 1:
            raise UserError(
                "The frame has samples of both roles; embed queries and "
                "documents separately."
            )
        if not roles:
            return np.zeros((0, trained.config.model.dim), np.float32)
        (role,) = roles
        batches = pipeline.evaluation_batches(
            pipeline.FileSource(frame, root),
            role,
            tokenizer,
            image_size=data.image_size,
            batch_size=batch_size,
            threads=data.threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        result = np.zeros((len(frame), trained.config.model.dim), np.float32)
        label = {table.QUERY: "queries", table.DOCUMENT: "documents"}[role]
        encoded = (
            forwards[role](variables, mesh_lib.put_batch(batch, mesh))
            for batch in batches
        )
        with progress.show(f"Embedding {label}", len(frame)) as count:
            for embeddings, index in mesh_lib.one_behind(encoded):
                count(_store(result, embeddings, index))
        return result

    return embed


def embed_table(
    trained: Trained,
    frame: pd.DataFrame,
    root: str | os.PathLike,
    mesh: Mesh,
    batch_size: int = 256,
) -> Embeddings:
    """Embeds all samples of a table, both queries and documents.

    Args:
      trained: the config, model and variables of a workdir.
      frame: a sample table; labels and splits are ignored.
      root: the table's folder.
      mesh: the devices that batches are split over.
      batch_size: samples embedded at once.

    Raises:
      UserError: if an image is unreadable; the message names the image.
    """
    embed = make_embedder(trained, root, mesh, batch_size)
    queries = frame[frame["role"] == table.QUERY]
    documents = frame[frame["role"] == table.DOCUMENT]
    return Embeddings(
        query_ids=queries["sample_id"].to_numpy(str),
        query_embeddings=embed(queries),
        document_ids=documents["sample_id"].to_numpy(str),
        document_embeddings=embed(documents),
    )


def write(
    trained: Trained,
    path: str | os.PathLike,
    out: str | os.PathLike,
    mesh: Mesh,
    *,
    batch_size: int,
    max_skipped: float | None = None,
) -> Written:
    """Embeds a table's samples into an `.npz` file; see `save`.

    All processes of a command call this; process 0 writes the file. Each of
    them holds all embeddings in memory.

    Args:
      trained: the model.
      path: the sample table.
      out: the file.
      mesh: the devices that batches are split over.
      batch_size: samples embedded at once.
      max_skipped: the maximum share of samples that may be left out because of
        unreadable images; None for the value in the model's config.

    Raises:
      UserError: if the table is invalid, the disk has too little space, too
        many images are unreadable, or the file cannot be written.
    """
    data = trained.config.data
    frame = table.read_table(path, data.image_roots)
    if jax.process_index() == 0:
        need = 4 * trained.config.model.dim * len(frame)
        subject = f"The embeddings of {len(frame):,} samples"
        message = results.require_room(pathlib.Path(out).parent, need, subject)
        terminal.say(message, console=terminal.Console(stderr=True))
    root = table.folder(path)
    frame, skipped = checking.check_images(
        frame,
        root,
        data.max_skipped if max_skipped is None else max_skipped,
        max_pixels=data.max_pixels,
        together=True,
    )
    made = embed_table(trained, frame, root, mesh, batch_size)
    if jax.process_index() == 0:
        save(made, out)
    counts = len(made.query_ids), len(made.document_ids)
    return Written(*counts, trained.config.model.dim, skipped)


def check_path(path: str | os.PathLike) -> None:
    """Raises a `UserError` unless embeddings can be written to `path`."""
    _check_suffix(path)
    files.check(path, "The embeddings")


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether embeddings are written to a folder, not a file.

    Raises:
      UserError: if the path looks like another kind of file.
    """
    suffix = paths.make(path).suffix
    if suffix == SUFFIX:
        return False
    if suffix in _FILES or os.path.isfile(path):
        raise UserError(
            f"{os.fspath(path)} looks like a file; choose a folder for the "
            "embeddings, or a file whose name ends in .npz."
        )
    return True


def _check_suffix(path: str | os.PathLike) -> None:
    if paths.local(path, "A file of embeddings").suffix != SUFFIX:
        raise UserError(
            f"Embeddings are saved as .npz files, but {path} does not end in "
            ".npz."
        )


def save(embeddings: Embeddings, path: str | os.PathLike) -> None:
    """Writes the embeddings atomically to one `.npz` file.

    The arrays are named after the fields of `Embeddings`.

    Raises:
      UserError: if the path does not end in `.npz` or cannot be written; see
        `results.deliver` for where the embeddings are saved instead.
    """
    _check_suffix(path)

    def save_arrays(draft: pathlib.Path) -> None:
        with open(draft, "wb") as file:
            np.savez(file, **embeddings._asdict())

    results.deliver(path, save_arrays, "The embeddings")


def _store(result: np.ndarray, embeddings: jax.Array, index: jax.Array) -> int:
    """Stores a batch's embeddings in `result`; returns the number of rows."""
    embeddings, index = jax.device_get((embeddings, index))
    is_row = index >= 0  # not padding
    result[index[is_row]] = embeddings[is_row]
    return int(is_row.sum())
