"""How arrays of one row a category lie in a checkpoint's files.

They are saved in chunks of some rows, and a chunk is read whole: a device that
wants a part of one decodes all of it. So chunks are small, and whoever reads
needs memory for his own rows and two chunks, on however many devices the rows
were saved.
"""

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import checksums
from mixer_jax.training.checkpoint import workdir as workdir_lib

# Of the state: those that hold such arrays.
FIELDS = ("proxies", "proxy_state", "graph")
PROXIES = "proxies"  # the item of a checkpoint, and the array in it
CHUNK = 2**26  # bytes, about; also of the blocks that are read
SMALLEST = 2**20  # bytes; smaller chunks are too many
OBJECT = 400 * 2**20  # bytes; of a bucket's objects with arrays, about


class SavedProxies(NamedTuple):
    """The proxies of a checkpoint, to be read in blocks.

    Attributes:
      step: of the checkpoint.
      category_ids: C ids, of the rows.
      dim: D, of a whole row.
      blocks: gives the rows in order, f32 `[rows, D]` each, once; raises a
        `UserError` where the files are damaged.
    """

    step: int
    category_ids: list[str]
    dim: int
    blocks: Iterator[np.ndarray]


def open_proxies(workdir: str | os.PathLike) -> SavedProxies:
    """Opens the proxies of a workdir's last checkpoint without any device.

    Whatever they were saved as and on however many devices, the blocks are
    f32 rows of categories, without padding.

    Raises:
      UserError: if there is no checkpoint, or it is damaged.
    """
    step = workdir_lib.trained_step(workdir)
    category_ids = workdir_lib.read_categories(workdir)
    where = paths.absolute(
        paths.make(workdir) / workdir_lib.CHECKPOINTS / str(step)
    )
    differs = not paths.is_remote(where) and checksums.check(where, (PROXIES,))
    if differs:
        raise damaged(where, differs)
    try:
        store = tensorstore.open(
            {
                "driver": "zarr",
                "kvstore": {
                    "driver": "ocdbt",
                    "base": paths.kvstore(paths.plain(where / PROXIES)),
                    "path": f"{PROXIES}/",
                },
                # A chunk that is gone is an error, not zeros.
                "fill_missing_data_reads": False,
            },
            read=True,
        ).result()
    except Exception as error:
        raise damaged(where, str(error)) from error
    count, (rows, dim) = len(category_ids), store.shape
    if rows < count:
        raise UserError(
            f"{workdir} does not hold together: its {workdir_lib.CATEGORIES} "
            f"has {count} categories, but the checkpoint of step {step} has "
            f"{rows} proxies. Restore the file from a copy."
        )

    def blocks() -> Iterator[np.ndarray]:
        chunk = store.chunk_layout.read_chunk.shape[0]
        size = max(CHUNK // (4 * dim * chunk), 1) * chunk
        for start in range(0, count, size):
            part = store[start : min(start + size, count)]
            try:
                block = part.read().result()
            except Exception as error:
                raise damaged(where, str(error)) from error
            yield block.astype(np.float32, copy=False)

    return SavedProxies(step, category_ids, dim, blocks())


def tree_save_args(tree: dict[str, Any]) -> Any:
    """Returns how the arrays of a checkpoint's item are saved."""
    return {
        field: jax.tree.map(
            save_args if field in FIELDS else lambda _: ocp.SaveArgs(), value
        )
        for field, value in tree.items()
    }


def tree_restore_args(tree: dict[str, Any]) -> Any:
    """Returns how they are read; rows may be padded or cut."""
    return {
        field: jax.tree.map(
            lambda x, strict=field not in FIELDS: ocp.ArrayRestoreArgs(
                sharding=x.sharding,
                global_shape=x.shape,
                dtype=x.dtype,
                strict=strict,
            ),
            value,
        )
        for field, value in tree.items()
    }


def save_args(array: jax.Array) -> ocp.SaveArgs:
    """Returns how an array that is split by rows is saved: see `chunk_rows`."""
    rows, *row = array.sharding.shard_shape(array.shape)
    row_bytes = math.prod(row) * array.dtype.itemsize
    chunk = chunk_rows(rows, row_bytes)
    if chunk == rows:
        return ocp.SaveArgs()
    return ocp.SaveArgs(chunk_byte_size=chunk * row_bytes)


def object_size(arrays: Any, args: Any) -> int:
    """Returns how large objects with arrays shall be in a bucket, in bytes.

    An object is sent in one go, and again if that fails, so that many are
    better than a huge one. But none is smaller than a chunk: Orbax would cut
    that, into a row each where their number is prime.

    Args:
      arrays: a tree of them.
      args: their `SaveArgs`, in a tree of the same structure.
    """

    def chunk(array: jax.Array, args: ocp.SaveArgs) -> int:
        shape = array.sharding.shard_shape(array.shape)
        return args.chunk_byte_size or math.prod(shape) * array.dtype.itemsize

    chunks = jax.tree.leaves(jax.tree.map(chunk, arrays, args))
    return max([OBJECT, *chunks])


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Returns how many of a device's rows make a chunk.

    Chunks are equal, so that a device's rows must be a multiple of it. Where
    they have no fitting divisor (a prime number of rows has none at all), a
    chunk is larger: millions of chunks of a row each would be worse.

    Args:
      rows: that a device holds.
      row_bytes: of one row.
    """
    small, large = CHUNK // row_bytes, SMALLEST / row_bytes
    if rows <= small:
        return rows
    divisors = [n for n in range(1, math.isqrt(rows) + 1) if rows % n == 0]
    divisors = sorted({*divisors, *(rows // n for n in divisors)})
    fitting = [n for n in divisors if large <= n <= small]
    larger = (n for n in divisors if n >= large)
    return fitting[-1] if fitting else next(larger, rows)


# The remedy where no checkpoint is left to go on from.
ONLY = "There is no other one. Delete that folder to train from the start."


class DamagedError(UserError):
    """A checkpoint cannot be read; `what` says which and why, no remedy."""

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what} {remedy}")
        self.what = what


def _has_others(where: paths.Path) -> bool:
    names = {path.name for path in where.parent.iterdir()} - {where.name}
    return any(name.isdecimal() for name in names)


def damaged(where: paths.Path, reason: str) -> DamagedError:
    """Returns what to say of a checkpoint that cannot be read."""
    if not where.exists():
        return DamagedError(
            f"The checkpoint {where} was removed while it was being read, as "
            "a run in training does once it has newer ones.",
            "Start this command again.",
        )
    lines = reason.strip().splitlines() or ["for no reason that was given"]
    return DamagedError(
        f"The checkpoint {where} is damaged and cannot be read "
        f"({lines[0][:200]}).",
        "Delete that folder to go on from the checkpoint before it; training "
        "sets it aside by itself."
        if _has_others(where)
        else ONLY,
    )
