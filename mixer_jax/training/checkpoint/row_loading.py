"""Loads rows of a checkpoint to the devices that own them.

The rows are read in blocks and written into arrays on the devices, so that the
host needs memory only for three blocks and four bytes per category, and each
device only for its own rows and one block.
"""

import functools
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths
from mixer_jax.training.checkpoint import row_files
from mixer_jax.training.checkpoint import shapes as shapes_lib


def load_rows(folder: paths.Path, item: dict[str, Any]) -> dict[str, Any]:
    """Returns the arrays of a checkpoint item that have one row per category.

    Args:
      folder: the item's folder.
      item: the expected arrays, with their shardings, by field; saved rows are
        truncated, or padded with zeros.

    Raises:
      ValueError: if a file cannot be read.
    """

    def load_one(path: Any, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return load(row_files.open_rows(folder, name), wanted)

    rows = {field: item[field] for field in row_files.FIELDS if field in item}
    return jax.tree.map_with_path(load_one, rows)


def load_proxies(
    workdir: str | os.PathLike, proxies: jax.Array, source: np.ndarray
) -> jax.Array:
    """Returns proxies with rows replaced by those of a workdir.

    Args:
      workdir: the workdir of one stage.
      proxies: `[C_pad, D]`, split over the mesh by rows; donated.
      source: int32 `[C]`, the row of the workdir's last checkpoint for each
        category; -1 for rows to keep.

    Raises:
      UserError: if the checkpoint is damaged or has a different D.
    """
    saved = row_files.open_proxies(workdir)
    shapes_lib.check(
        saved.where,
        {row_files.PROXIES: tuple(saved.store.shape)},
        {row_files.PROXIES: proxies.shape},
    )
    try:
        return copy(proxies, saved.store, source)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # The devices have too little memory; the files may be fine.
    except Exception as error:
        raise row_files.damaged(saved.where, str(error)) from error


def load(
    store: tensorstore.TensorStore, wanted: jax.ShapeDtypeStruct
) -> jax.Array:
    """Returns the rows of a checkpoint, truncated or padded with zeros.

    Args:
      store: the saved rows, from `row_files.open_rows`.
      wanted: the shape, dtype and sharding of the result.

    Raises:
      ValueError: if a file cannot be read.
    """
    rows = jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)
    source = np.arange(len(rows), dtype=np.int32)
    source[store.shape[0] :] = -1
    return copy(rows, store, source)


def copy(
    rows: jax.Array, store: tensorstore.TensorStore, source: np.ndarray
) -> jax.Array:
    """Returns the rows, some of them replaced by those of a checkpoint.

    Args:
      rows: `[C_pad, ...]`, split over the devices by rows; donated.
      store: the saved rows `[C', ...]`, of any dtype.
      source: int32 `[C]` with C up to C_pad, the saved row for each row; -1
        for rows to keep.

    Raises:
      ValueError: if a file cannot be read.
    """
    parts = [
        _copy(shard.data, store, source[shard.index[0]])
        for shard in rows.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(
        rows.shape, rows.sharding, parts
    )


def _copy(
    part: jax.Array, store: tensorstore.TensorStore, source: np.ndarray
) -> jax.Array:
    """Returns the rows of one device; see `copy`."""
    size, (device,) = row_files.block_rows(store), part.devices()
    size = min(size, store.shape[0])
    # Read rows in file order, which sorted categories already have.
    positions = np.flatnonzero(source >= 0).astype(np.int32)
    if (np.diff(source[positions]) < 0).any():
        positions = positions[np.argsort(source[positions], kind="stable")]
    source = source[positions]
    for begin, end, first, read in mesh_lib.one_behind(
        _reads(store, source, size)
    ):
        block = read.result()
        # All blocks have the same size, so that one program writes them.
        chosen = np.zeros((size, *block.shape[1:]), block.dtype)
        chosen[: end - begin] = block[source[begin:end] - first]
        place = np.full(size, len(part), np.int32)
        place[: end - begin] = positions[begin:end]
        part = _put(part, *jax.device_put((chosen, place), device))
        # Keep the host from running ahead and holding many blocks.
        jax.block_until_ready(part)
    return part


def _reads(
    store: tensorstore.TensorStore, source: np.ndarray, size: int
) -> Iterator[tuple[int, int, int, tensorstore.Future]]:
    """Starts reading the blocks that contain the given rows.

    Args:
      store: the saved rows.
      source: int `[N]`, the rows to read, ascending.
      size: the maximum number of rows per block, a multiple of a chunk's.

    Yields:
      The first entry of `source` in a block, the entry after the last one, the
      block's first row, and its content.
    """
    begin = 0
    while begin < len(source):
        first = int(source[begin]) // size * size
        end = int(np.searchsorted(source, first + size))
        first, stop = int(source[begin]), int(source[end - 1]) + 1
        yield begin, end, first, store[first:stop].read()
        begin = end


@functools.partial(jax.jit, donate_argnums=0)
def _put(part: jax.Array, rows: jax.Array, place: jax.Array) -> jax.Array:
    return part.at[place].set(rows.astype(part.dtype), mode="drop")
