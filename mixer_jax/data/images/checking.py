"""Checks the images of a table before they are used."""

import collections
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mixer_jax.data.images import decoding, faults, memory
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.tables import near_paths, table
from mixer_jax.runtime import identity, progress
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import UserError

_CHUNK = 64  # files per thread task
_MESSAGE = 1000  # faults that a process sends at once


def check_images(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    max_skipped: float,
    threads: int | None = None,
    *,
    max_pixels: int = memory.MAX_PIXELS,
    option: str = table.MAX_SKIPPED,
    pixels_option: str = "",
    keep: Callable[[pd.DataFrame], str] | None = None,
    together: bool = False,
) -> tuple[pd.DataFrame, table.Skipped]:
    """Drops the rows of a frame whose images cannot be decoded.

    Args:
      frame: rows of a sample table.
      root: the folder that the paths are relative to.
      max_skipped: the maximum share of dropped rows.
      threads: number of decoding threads; by default, one per core.
      max_pixels: see `decoding.decode`.
      option: the option that sets `max_skipped`, for the error message.
      pixels_option: the option that sets `max_pixels`; see
        `decoding.decode`.
      keep: called with the dropped rows, if any, before an error is raised;
        see `leave_out`. Returns the path of the list it wrote.
      together: whether all processes of a command check the same frame; they
        divide its images among themselves.

    Returns:
      The kept rows, and the number of dropped rows for each of `faults.KINDS`.

    Raises:
      UserError: if a larger share than `max_skipped` is dropped; lists the
        first ten rows with path and reason. Also if the frames differ.
    """
    root = Path(root)
    if together:
        _check_same(frame)
    codes, paths = pd.factorize(frame["image"])
    paths = [root / path if path else None for path in paths]
    find = _find_faults_together if together else _find_faults
    file_errors = find(paths, max_pixels, pixels_option, threads)
    bad = np.array([fault is not None for fault in file_errors], bool)[codes]
    rows = np.flatnonzero(bad)
    errors = [file_errors[code] for code in codes[rows]]
    kept, skipped, listed = leave_out(frame, root, rows, errors)
    if keep is not None and errors:
        skipped = dataclasses.replace(skipped, listing=keep(listed))
    return kept, skipped.require(max_skipped, remedy(root), option)


def remedy(root: str | os.PathLike) -> str:
    """Returns a clause about images in a folder that cannot be decoded."""
    return f"Repair these files under {root}, remove their rows"


def leave_out(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    rows: np.ndarray,
    errors: Sequence[UnreadableImageError],
) -> tuple[pd.DataFrame, table.Skipped, pd.DataFrame]:
    """Drops rows whose images are known to be unreadable.

    Args:
      frame: rows of a sample table.
      root: the folder that the paths are relative to.
      rows: int `[n]`, ascending positions of the rows to drop.
      errors: the n errors of their images.

    Returns:
      The kept rows, a description of the dropped ones, and a list of these: a
      frame of `sample_id`, `image`, `kind`, `reason` and `row` (in the table,
      from 1).
    """
    root, images = Path(root), frame["image"].to_numpy(object)[rows]
    counts = collections.Counter(error.kind for error in errors)
    listed = [
        _with_hint(error, root / image, root)
        for error, image in zip(errors, images[: table.LISTED], strict=False)
    ]
    skipped = table.skip(frame, rows, listed, "unreadable images")
    skipped = dataclasses.replace(
        skipped, kinds={kind: counts[kind] for kind in faults.KINDS}
    )
    listed = frame.iloc[rows][["sample_id", "image"]].assign(
        kind=[error.kind for error in errors],
        reason=[str(error) for error in errors],
        row=frame.index[rows] + 1,
    )
    kept = np.ones(len(frame), bool)
    kept[rows] = False
    return frame[kept], skipped, listed


def _with_hint(error: UnreadableImageError, path: Path, root: Path) -> str:
    """Returns an error message, with a similar path if the file is missing."""
    is_missing = error.kind == faults.MISSING
    return str(error) + (near_paths.hint(path, root) if is_missing else "")


def _check_same(frame: pd.DataFrame) -> None:
    """Checks that all processes have the same rows."""
    from mixer_jax.runtime import processes

    rows = processes.gather("rows", identity.hash_rows(frame))
    different = [index for index, one in enumerate(rows) if one != rows[0]]
    if different:
        raise UserError(
            f"Process {different[0]} reads a different sample table than "
            "process 0; give all processes the same table."
        )


def _find_faults_together(
    paths: Sequence[Path | None],
    max_pixels: int,
    option: str,
    threads: int | None,
) -> list[UnreadableImageError | None]:
    """Like `_find_faults`, but all processes share the work."""
    from mixer_jax.runtime import processes  # imports JAX

    place, count = processes.place()
    own = _find_faults(paths[place::count], max_pixels, option, threads)
    found = [
        (place + number * count, str(error), error.kind)
        for number, error in enumerate(own)
        if error is not None
    ]
    errors: list[UnreadableImageError | None] = [None] * len(paths)
    processes.barrier("images", processes.PATIENCE)
    # The size of a message is limited.
    rounds = max(processes.gather("rounds", -(-len(found) // _MESSAGE)))
    for start in range(0, rounds * _MESSAGE, _MESSAGE):
        some = found[start : start + _MESSAGE]
        for part in processes.gather("faults", some):
            for number, message, kind in part:
                errors[number] = UnreadableImageError(message, kind)
    return errors


def _find_faults(
    paths: Sequence[Path | None],
    max_pixels: int,
    option: str,
    threads: int | None,
) -> list[UnreadableImageError | None]:
    """Returns the error of each file, or None if it can be decoded.

    Files are decoded to the end even at this small size, so that truncated
    files are found.
    """

    def fault(path: Path | None) -> UnreadableImageError | None:
        try:
            if path is not None:
                decoding.check(path, max_pixels, option=option)
        except UnreadableImageError as error:
            # Create a new error: the old traceback keeps the bytes in memory.
            return UnreadableImageError(str(error), error.kind)
        return None

    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    with threads_lib.pool(threads or os.cpu_count()) as pool:
        done = pool.map(lambda chunk: [fault(path) for path in chunk], chunks)
        errors = []
        with progress.show("Checking images", len(paths)) as count:
            for chunk in done:
                errors += chunk
                count(len(chunk))
        return errors
