"""Finds the folders that an index refers to, even after a move.

A folder's path is stored relative to the index, so both can be moved together.
Nothing else about the machine is stored.
"""

import collections
import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from mixer_jax.runtime import paths
from mixer_jax.runtime.tabular import references


def save(target: paths.Path, folder: str | os.PathLike) -> list[str]:
    """Returns the paths to store, so that `load` can find a target again.

    Args:
      target: a folder on this machine or in a bucket.
      folder: the index's folder.
    """
    if paths.is_remote(target):
        return [str(target)]
    names = []
    for resolve in (os.path.abspath, os.path.realpath):  # keep or follow links
        # No relative path leads from one drive to another.
        with contextlib.suppress(ValueError):
            names.append(os.path.relpath(resolve(target), resolve(folder)))
    return list(dict.fromkeys(names))


def load(names: Sequence[str], folder: str | os.PathLike) -> list[paths.Path]:
    """Returns the possible absolute paths of a target, most likely first.

    Args:
      names: the result of `save`.
      folder: the index's current folder.

    Raises:
      ValueError: if `names` is not a list of strings.
    """
    check(names)
    candidates = {}
    for name in names:
        if "://" in name:
            candidates[paths.make(name)] = None
            continue
        for resolve in (os.path.abspath, os.path.realpath):
            # Resolve links first: `..` after a link leads to another folder.
            path = os.path.normpath(os.path.join(resolve(folder), name))
            candidates[pathlib.Path(path)] = None
    return list(candidates)


def check(names: Any) -> None:
    """Raises a `ValueError` if `names` is not a list of non-empty strings."""
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name for name in names
    ):
        raise ValueError(f"{names!r} is not a list of paths")


def missing(root: pathlib.Path, names: Sequence[str]) -> list[str]:
    """Returns the names that have no file under `root`, in the given order.

    Listing folders is faster than checking each file.
    """
    inside = collections.defaultdict(set)
    for name in names:
        folder, file = os.path.split(references.file_of(name))
        inside[folder].add(file)
    existing = {
        folder: _files(root / folder, files) for folder, files in inside.items()
    }
    absent = []
    for name in names:
        folder, file = os.path.split(references.file_of(name))
        if file not in existing[folder]:
            absent.append(name)
    return absent


def check_images(root: pathlib.Path, names: Sequence[str]) -> str:
    """Returns a message about missing pictures, or "".

    Args:
      root: the folder of the pictures.
      names: the names of the pictures.
    """
    absent = missing(root, names)
    if not absent:
        return ""
    return (
        f"{len(absent)} of {len(names)} pictures are missing in {root}, such "
        f"as {absent[0]}; search works without them. If the pictures were "
        "moved, name their folder with --images=FOLDER."
    )


def _files(folder: pathlib.Path, wanted: set[str]) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {e.name for e in entries if e.name in wanted and e.is_file()}
    except (OSError, ValueError):
        return set()
