"""Reads embeddings written by `embed` to a folder or a file."""

import hashlib
import io
import os
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq

from mixer_jax.data.tables import table
from mixer_jax.retrieval.embed import Embeddings
from mixer_jax.retrieval.sharded import layout
from mixer_jax.runtime import arrays, paths
from mixer_jax.runtime.errors import UserError


def read(name: str | os.PathLike) -> Embeddings:
    """Returns all embeddings of a folder or of an `.npz` file.

    Raises:
      UserError: if they are incomplete, damaged or of a newer format.
    """
    path = paths.make(name)
    if path.suffix == ".npz":
        return _read_file(path)
    found = []
    for role in (table.QUERY, table.DOCUMENT):
        dim = layout.read_manifest(path)["D"]
        parts = [(np.zeros(0, object), np.zeros((0, dim), np.float32))]
        parts += batches(path, role)
        ids, embeddings = map(np.concatenate, zip(*parts, strict=True))
        found += [ids.astype(str), embeddings]
    return Embeddings(*found)


def batches(
    name: str | os.PathLike, role: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the embeddings of a folder, one part at a time.

    Args:
      name: the folder.
      role: "query" or "document".

    Yields:
      The sample IDs, str `[n]` as objects, and the embeddings, f32 `[n, D]`, in
      the order of the table.

    Raises:
      UserError: if the embeddings are incomplete, damaged or of a newer format.
    """
    folder = paths.make(name)
    manifest = layout.read_manifest(folder)
    for part in manifest["files"]:
        if part["name"].partition("/")[0] != layout.FOLDERS[role]:
            continue
        path = folder / part["name"]
        with paths.reaching(folder):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                content = b""
        if hashlib.sha256(content).hexdigest() != part["sha256"]:
            raise UserError(
                f"{path} is missing or damaged; {layout.REMEDY}, which embeds "
                "its samples again."
            )
        rows = pq.read_table(io.BytesIO(content)).combine_chunks()
        flat = rows[layout.EMBEDDING].combine_chunks().flatten()
        yield (
            rows[layout.ID].to_numpy(),
            flat.to_numpy().reshape(len(rows), manifest["D"]),
        )


def _read_file(path: paths.Path) -> Embeddings:
    try:
        with arrays.reading(path) as file, np.load(file) as found:
            return Embeddings(*(found[name] for name in Embeddings._fields))
    except (OSError, arrays.DamagedError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
