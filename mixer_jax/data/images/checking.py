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
from mixer_jax.runtime import progress
from mixer_jax.runtime import threads as threads_lib

CHECKED = 32  # side of the squares decoded to check files, in pixels
_CHUNK = 64  # files per thread task


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
      keep: called with the dropped rows, if any, before an error is raised: a
        frame of `sample_id`, `image`, `kind`, `reason` and `row` (in the table,
        from 1). Returns the path of the list that it wrote.

    Returns:
      The kept rows, and the number of dropped rows for each of `faults.KINDS`.

    Raises:
      UserError: if a larger share than `max_skipped` is dropped; lists the
        first ten rows with path and reason.
    """
    root = Path(root)
    codes, paths = pd.factorize(frame["image"])
    paths = [root / path if path else None for path in paths]
    file_errors = _find_faults(paths, max_pixels, pixels_option, threads)
    bad = np.array([fault is not None for fault in file_errors], bool)[codes]
    rows = np.flatnonzero(bad)
    errors = [file_errors[code] for code in codes[rows]]
    return leave_out(
        frame, root, rows, errors, max_skipped, option=option, keep=keep
    )


def leave_out(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    rows: np.ndarray,
    errors: Sequence[UnreadableImageError],
    max_skipped: float,
    *,
    option: str = table.MAX_SKIPPED,
    keep: Callable[[pd.DataFrame], str] | None = None,
) -> tuple[pd.DataFrame, table.Skipped]:
    """Drops rows whose images are known to be unreadable.

    Args:
      frame: rows of a sample table.
      root: the folder that the paths are relative to.
      rows: int `[n]`, ascending positions of the rows to drop.
      errors: the n errors of their images.
      max_skipped: see `check_images`.
      option: see `check_images`.
      keep: see `check_images`.

    Returns:
      See `check_images`.

    Raises:
      UserError: see `check_images`.
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
    if keep is not None and errors:
        listed = frame.iloc[rows][["sample_id", "image"]].assign(
            kind=[error.kind for error in errors],
            reason=[str(error) for error in errors],
            row=frame.index[rows] + 1,
        )
        skipped = dataclasses.replace(skipped, listing=keep(listed))
    remedy = f"Repair these files under {root}, remove their rows"
    kept = np.ones(len(frame), bool)
    kept[rows] = False
    return frame[kept], skipped.require(max_skipped, remedy, option)


def _with_hint(error: UnreadableImageError, path: Path, root: Path) -> str:
    """Returns an error message, with a similar path if the file is missing."""
    is_missing = error.kind == faults.MISSING
    return str(error) + (near_paths.hint(path, root) if is_missing else "")


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
                decoding.decode(path, CHECKED, max_pixels, option=option)
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
