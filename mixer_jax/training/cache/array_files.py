"""A cache of arrays that are expensive to compute, verified by checksums.

    FOLDER/key.json   identifies the inputs and the computation of the arrays
    FOLDER/done.json  the checksum of every complete block
    FOLDER/NAME.npy   the arrays

A block is a range of rows of the arrays that are computed together. Its
checksum is stored when it is complete, and verified whenever the folder is
opened: blocks without a checksum, or with a different one, are computed again.
"""

import contextlib
import json
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mixer_jax.runtime import arrays as arrays_lib
from mixer_jax.runtime import paths, progress
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import UserError

PyTree = Any
Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[tuple[int, ...], str]]  # {array: (shape, dtype)}
Say = Callable[[str], None]

BLOCK = 2**26  # approximate bytes per block
_SPARE = 1.1  # required free space, as a multiple of the arrays' size
_LARGE = 10**9  # bytes; verifying more is slow, so a message is shown
_THREADS = 4  # to read files and compute CRCs; both release the GIL


def prepare(
    folder: Path, shapes: Shapes, key: str, source: str, say: Say
) -> None:
    """Creates the files of the arrays, unless they exist with the same key.

    A file that is missing or has another size is created with zeros; `fill`
    detects such files by their checksums.

    Args:
      folder: the folder of the arrays.
      shapes: the shapes and dtypes of the arrays.
      key: identifies the inputs and the computation of the arrays; a folder
        with another key is emptied.
      source: the source of the arrays, for messages.
      say: called with a message about the arrays and their size before they are
        computed.

    Raises:
      UserError: if the disk has too little space (gives both sizes) or cannot
        be written to, or if the folder holds other files.
    """
    missing = shapes
    try:
        if read_key(folder) == key:
            missing = {
                name: shape
                for name, shape in shapes.items()
                if not _is_whole(folder / f"{name}.npy", *shape)
            }
            for name in missing:
                say(f"{folder / name}.npy is missing or truncated")
            if not missing:
                return
    except (OSError, ValueError):
        missing = shapes
    need = sum(
        math.prod(shape) * np.dtype(dtype).itemsize
        for shape, dtype in missing.values()
    )
    try:
        if missing is shapes:
            _check_ours(folder)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if free < _SPARE * need:
            raise UserError(
                f"The stored features need {need / 1e9:.2f} GB in "
                f"{folder}, which has {free / 1e9:.2f} GB free. Free up "
                "space, or use another folder: set data.features in the config "
                "for training, or the environment variable TMPDIR for an "
                "evaluation of baselines."
            )
        for name, (shape, dtype) in missing.items():
            np.lib.format.open_memmap(
                folder / f"{name}.npy", "w+", dtype, shape
            ).flush()
        if missing is shapes:
            say(f"encoding {source} once ({need / 1e9:.2f} GB in {folder})")
            paths.write(folder / "done.json", "{}")
            # Written last, because it makes the folder valid.
            paths.write(folder / "key.json", json.dumps(key))
    except OSError as error:
        raise UserError(
            f"The features cannot be written to {folder}: "
            f"{paths.reason(error)}."
        ) from error


def read_key(folder: Path) -> str:
    """Returns the key of a folder of arrays; "" if there is none."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "key.json").read_text())
    return ""


def fill(
    folder: Path,
    names: Sequence[str],
    count: int,
    make: Callable[[np.ndarray], Iterator[Arrays]],
    say: Say,
) -> None:
    """Computes the rows that are missing or damaged.

    All processes compute the same rows: those that any of them lacks.

    Args:
      folder: the folder, created by `prepare`.
      names: the names of the arrays that are computed together, row by row.
      count: the number of their rows.
      make: maps ascending rows, int `[n]`, to an iterator over their values in
        the arrays, in order, some rows at a time.
      say: called with a message if blocks are damaged, or if verifying takes
        long.
    """
    kept = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
    step = max(BLOCK // sum(array[:1].nbytes for array in kept), 1)
    starts = range(0, count, step)
    sums = _read_sums(folder, names[0], len(starts), say)
    files = " and ".join(f"{folder / name}.npy" for name in names)
    wrong = _wrong(kept, starts, step, count, sums, files, say)
    if wrong:
        rows = sum(min(step, count - starts[block]) for block in wrong)
        say(
            f"{len(wrong)} of {len(starts)} blocks of {files} are damaged; "
            f"computing their {rows:,} rows again"
        )
    missing = np.array([known is None for known in sums], bool)
    missing[wrong] = True
    if jax.process_count() > 1:
        missing = multihost_utils.process_allgather(missing).any(0)
    if not missing.any():
        return
    blocks = np.flatnonzero(missing)
    rows = np.concatenate(
        [np.arange(starts[b], min(starts[b] + step, count)) for b in blocks]
    )
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in names
    }
    position, whole = 0, 0
    for parts in _with_progress(make(rows), len(rows), " and ".join(names)):
        here = rows[position:][: len(parts[names[0]])]
        for name, values in parts.items():
            array = arrays[name]
            array[here] = values[: len(here)].view(array.dtype)
        position += len(here)
        # Blocks before the one that holds the next row are complete.
        first = whole
        next_row = rows[position] if position < len(rows) else math.inf
        while whole < len(blocks) and starts[blocks[whole]] + step <= next_row:
            whole += 1
        if whole == first:
            continue
        for array in arrays.values():
            array.flush()
        for block in blocks[first:whole]:
            sums[block] = _sum(kept, starts[block], step)
        _write_sums(folder, names[0], sums)


def _with_progress(
    made: Iterator[Arrays], rows: int, label: str
) -> Iterator[Arrays]:
    """Yields the arrays and shows the progress."""
    with progress.show(f"Computing {label}", rows) as count:
        for parts in made:
            yield parts
            count(len(next(iter(parts.values()))))


def _check_ours(folder: Path) -> None:
    """Checks that a folder to be deleted holds no other files."""
    ours = (".npy", ".json", ".draft")
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() or path.suffix not in ours:
            raise UserError(
                f"{folder} cannot be used for stored features: it "
                f"contains {path.name}, which does not belong to them. Set "
                "data.features in the config to another folder."
            )


def _is_whole(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    try:
        array = arrays_lib.read(path, mapped=True)
    except (OSError, ValueError):
        return False
    size = array.offset + array.nbytes
    return (array.shape, array.dtype) == (shape, dtype) and (
        path.stat().st_size == size
    )


def _wrong(
    arrays: Sequence[np.memmap],
    starts: range,
    step: int,
    count: int,
    sums: Sequence[int | None],
    files: str,
    say: Say,
) -> list[int]:
    """Returns the blocks that differ from their stored checksums."""
    blocks = [b for b, known in enumerate(sums) if known is not None]
    rows = sum(min(step, count - starts[block]) for block in blocks)
    size = rows * sum(array[:1].nbytes for array in arrays)
    if size >= _LARGE:
        say(f"verifying the checksums of {size / 1e9:.2f} GB in {files}")
    begin = time.perf_counter()
    with threads_lib.pool(_THREADS) as pool:
        current = pool.map(lambda b: _sum(arrays, starts[b], step), blocks)
        wrong = [
            b for b, now in zip(blocks, current, strict=True) if now != sums[b]
        ]
    if size >= _LARGE:
        seconds = time.perf_counter() - begin
        say(f"verified in {seconds:.1f} s, {size / seconds / 1e9:.2f} GB/s")
    return wrong


def _sum(arrays: Sequence[np.memmap], start: int, rows: int) -> int | None:
    """Returns the checksum of a block; None if it cannot be read."""
    total = 0
    for array in arrays:
        size = array[:1].nbytes
        try:
            # A read error in the memory map would kill the process.
            with open(array.filename, "rb") as file:
                file.seek(array.offset + start * size)
                total = zlib.crc32(file.read(rows * size), total)
        except OSError:
            return None
    return total


def _read_sums(
    folder: Path, name: str, blocks: int, say: Say
) -> list[int | None]:
    """Returns each block's stored checksum; None for blocks without one."""
    path = folder / "done.json"
    try:
        sums = json.loads(path.read_text()).get(name, [None] * blocks)
        if isinstance(sums, list) and len(sums) == blocks:
            return sums
    except (OSError, ValueError, AttributeError):
        pass
    say(f"{path} is damaged; computing {folder / name}.npy again")
    return [None] * blocks


def _write_sums(folder: Path, name: str, sums: list[int | None]) -> None:
    path = folder / "done.json"
    try:
        recorded = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        recorded = {}
    paths.write(path, json.dumps(recorded | {name: sums}))
