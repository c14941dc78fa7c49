"""Checkpoint layout of arrays with one row per category.

The arrays are saved in chunks of rows. A chunk is always decoded as a whole,
even for a device that needs only a part of it. Chunks are therefore small: a
reader needs memory for its own rows and two chunks, however many devices saved
the rows.
"""

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from mixer_jax.runtime import files, paths, processes
from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.runtime.tabular.strings import Strings
from mixer_jax.training.checkpoint import checksums, completeness
from mixer_jax.training.checkpoint import workdir as workdir_lib

# State fields with one row per category.
FIELDS = ("proxies", "proxy_state", "graph")
PROXIES = "proxies"  # name of the checkpoint item, and of the array in it
CHUNK = 2**26  # approximate bytes per chunk, and per block read
SMALLEST = 2**20  # minimum bytes per chunk; limits the number of chunks
OBJECT = 400 * 2**20  # approximate bytes per bucket object that holds arrays
FILE = 2**27  # approximate bytes per local file that holds arrays


class SavedProxies(NamedTuple):
    """The proxies of a checkpoint, to be read in blocks.

    Attributes:
      where: the checkpoint's folder.
      step: its step.
      category_ids: the ids of the C rows.
      store: the saved rows, of any dtype; padding rows may follow the C rows.
    """

    where: paths.Path
    step: int
    category_ids: Strings
    store: tensorstore.TensorStore

    @property
    def dim(self) -> int:
        """D, the size of a full row."""
        return self.store.shape[1]

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields all rows once, in order, in blocks f32 `[rows, D]`.

        Raises:
          UserError: if the files are damaged.
        """
        count, size = len(self.category_ids), block_rows(self.store)
        for start in range(0, count, size):
            part = self.store[start : min(start + size, count)]
            try:
                block = part.read().result()
            except Exception as error:
                raise damaged(self.where, str(error)) from error
            yield block.astype(np.float32, copy=False)


def open_proxies(workdir: str | os.PathLike) -> SavedProxies:
    """Opens the proxies of a workdir's last checkpoint without using a device.

    The rows do not depend on the number of devices that saved them. All
    processes must call this; process 0 compares checksums.

    Raises:
      UserError: if there is no checkpoint, or it is damaged.
    """
    while True:
        # A run that is still training may save and delete steps meanwhile.
        step = processes.gather("step", workdir_lib.trained_step(workdir))[0]
        found, removed = None, None
        try:
            found = _open_proxies(workdir, step)
        except RemovedError as error:
            removed = error
        latest = workdir_lib.latest_step(workdir) or 0
        states = processes.gather("opened", [removed is not None, latest])
        if not any(gone for gone, _ in states):
            return found
        if states[0][1] <= step:
            raise removed or RemovedError(
                f"The checkpoint of step {step} in {workdir} was removed while "
                "it was being read.",
                "Run this command again.",
            )


def _open_proxies(workdir: str | os.PathLike, step: int) -> SavedProxies:
    category_ids = workdir_lib.read_categories(workdir)
    where = paths.absolute(
        paths.make(workdir) / workdir_lib.CHECKPOINTS / str(step)
    )
    differs = ""
    if jax.process_index() == 0:
        differs = completeness.other_step(where)
        if not paths.is_remote(where):
            differs = differs or checksums.check(where, (PROXIES,))
    processes.barrier("compared", processes.PATIENCE)
    if differs := processes.gather("proxies", differs)[0]:
        raise damaged(where, differs)
    try:
        store = open_rows(where / PROXIES, PROXIES)
    except Exception as error:
        raise damaged(where, str(error)) from error
    count, rows = len(category_ids), store.shape[0]
    if rows < count:
        raise UserError(
            f"{workdir} is inconsistent: its {workdir_lib.CATEGORIES} has "
            f"{count} categories, but the checkpoint of step {step} has {rows} "
            "proxies. Restore the file from a copy."
        )
    return SavedProxies(where, step, category_ids, store)


def open_rows(item: paths.Path, name: str) -> tensorstore.TensorStore:
    """Opens an array of a checkpoint item; its values are read on demand.

    Args:
      item: the item's folder.
      name: the keys of the array in the item's tree, joined by ".".

    Raises:
      ValueError: if it cannot be opened.
    """
    return tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {
                "driver": "ocdbt",
                "base": paths.kvstore(paths.plain(item)),
                "path": f"{name}/",
            },
            # A missing chunk is an error, not zeros.
            "fill_missing_data_reads": False,
        },
        read=True,
    ).result()


def block_rows(store: tensorstore.TensorStore) -> int:
    """Returns the number of rows to read at once, in whole chunks."""
    chunk = store.chunk_layout.read_chunk.shape[0]
    row_bytes = 4 * math.prod(store.shape[1:])
    return max(CHUNK // (row_bytes * chunk), 1) * chunk


def tree_save_args(tree: dict[str, Any]) -> Any:
    """Returns the `SaveArgs` for the arrays of a checkpoint item."""
    return {
        field: jax.tree.map(
            save_args if field in FIELDS else lambda _: ocp.SaveArgs(), value
        )
        for field, value in tree.items()
    }


def tree_restore_args(tree: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the part of an item restored by Orbax, not by `row_loading`.

    Returns:
      The tree with placeholders for arrays with one row per category, and its
      `RestoreArgs`.
    """
    tree = {
        field: jax.tree.map(lambda _: ocp.PLACEHOLDER, value)
        if field in FIELDS
        else value
        for field, value in tree.items()
    }
    return tree, jax.tree.map(
        lambda x: (
            ocp.RestoreArgs()
            if x is ocp.PLACEHOLDER
            else ocp.ArrayRestoreArgs(
                sharding=x.sharding, global_shape=x.shape, dtype=x.dtype
            )
        ),
        tree,
    )


def save_args(array: jax.Array) -> ocp.SaveArgs:
    """Returns the `SaveArgs` for an array split by rows; see `chunk_rows`."""
    rows, *row = array.sharding.shard_shape(array.shape)
    row_bytes = math.prod(row) * array.dtype.itemsize
    chunk = chunk_rows(rows, row_bytes)
    if chunk == rows:
        return ocp.SaveArgs()
    return ocp.SaveArgs(chunk_byte_size=chunk * row_bytes)


def file_size(target: int, arrays: Any, args: Any) -> int:
    """Returns the target size in bytes of files that hold arrays.

    A file's content is kept in memory until it is written; an object in a
    bucket is uploaded in one request, which is retried if it fails. Several
    files are therefore better than one huge file. The size is never below that
    of a chunk: Orbax would otherwise split the chunk, into single rows if their
    number is prime.

    Args:
      target: `FILE` or `OBJECT`.
      arrays: a tree of arrays.
      args: their `SaveArgs`, in a tree of the same structure.
    """

    def chunk(array: Any, args: ocp.SaveArgs) -> int:
        if not isinstance(array, jax.Array):
            return 0  # a Python number
        shape = array.sharding.shard_shape(array.shape)
        return args.chunk_byte_size or math.prod(shape) * array.dtype.itemsize

    chunks = jax.tree.leaves(jax.tree.map(chunk, arrays, args))
    return max([target, *chunks])


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Returns the number of rows per chunk.

    Chunks have equal sizes, so the number divides the rows per device. If no
    divisor fits (a prime number has none), chunks are larger than `CHUNK`:
    millions of chunks with a single row would be worse.

    Args:
      rows: the number of rows per device.
      row_bytes: the size of a row in bytes.
    """
    small, large = CHUNK // row_bytes, SMALLEST / row_bytes
    if rows <= small:
        return rows
    divisors = [n for n in range(1, math.isqrt(rows) + 1) if rows % n == 0]
    divisors = sorted({*divisors, *(rows // n for n in divisors)})
    fitting = [n for n in divisors if large <= n <= small]
    larger = (n for n in divisors if n >= large)
    return fitting[-1] if fitting else next(larger, rows)


# Advice if there is no other checkpoint.
ONLY = "There is no other checkpoint. Delete that folder to train from scratch."


class DamagedError(UserError):
    """Raised if a checkpoint cannot be read.

    Attributes:
      problem: the message without the remedy; names checkpoint and reason.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem} {remedy}")
        self.problem = problem


class RemovedError(DamagedError, PassingError):
    """Raised if a checkpoint was removed while it was being read."""


def _has_others(where: paths.Path) -> bool:
    names = {path.name for path in where.parent.iterdir()} - {where.name}
    return any(name.isdecimal() for name in names)


def damaged(where: paths.Path, reason: str) -> DamagedError:
    """Returns the error for a checkpoint that cannot be read.

    Raises:
      UserError: if its files are not damaged but have not been fetched.
    """
    if not where.exists():
        return RemovedError(
            f"The checkpoint {where} was removed while it was being read: "
            "a training run deletes old checkpoints as it saves new ones.",
            "Run this command again.",
        )
    if not paths.is_remote(where):
        files.check_fetched(where)
    lines = reason.strip().splitlines() or ["no reason given"]
    return DamagedError(
        f"The checkpoint {where} is damaged and cannot be read "
        f"({lines[0][:200]}).",
        "Delete that folder to use the previous checkpoint; training moves it "
        "aside automatically."
        if _has_others(where)
        else ONLY,
    )
