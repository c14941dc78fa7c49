"""Finds the folders that an index refers to, even after a move.

A folder's path is stored relative to the index, in case both are moved
together, and as an absolute path, in case only the index is moved.
"""

import collections
import contextlib
import os
import pathlib
from collections.abc import Sequence

from mixer_jax.runtime import identity, paths


def save(target: paths.Path, folder: str | os.PathLike) -> list[str]:
    """Returns the paths to store, from which `load` finds a target again.

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
    return list(dict.fromkeys([*names, os.path.abspath(target)]))


def load(
    names: str | Sequence[str], folder: str | os.PathLike
) -> list[paths.Path]:
    """Returns the possible absolute paths of a target, most likely first.

    Args:
      names: the result of `save`, or a single path.
      folder: the index's current folder.

    Raises:
      ValueError: if `names` is neither a string nor a list of strings.
    """
    names = [names] if isinstance(names, str) else names
    if not (isinstance(names, list) and names):
        raise ValueError("it contains no paths")
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{names!r} is not a list of paths")
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


def missing(root: pathlib.Path, names: Sequence[str]) -> list[str]:
    """Returns the names that have no file under `root`, in the given order.

    Listing folders is faster than checking each file.
    """
    inside = collections.defaultdict(set)
    for name in names:
        folder, file = os.path.split(name)
        inside[folder].add(file)
    existing = {
        folder: _files(root / folder, files) for folder, files in inside.items()
    }
    absent = []
    for name in names:
        folder, file = os.path.split(name)
        if file not in existing[folder]:
            absent.append(name)
    return absent


def sizes(root: pathlib.Path, names: Sequence[str]) -> list[int]:
    """Returns the size in bytes of each file under `root`; -1 if missing."""
    return identity.stat([os.path.join(root, name) for name in names])[
        0
    ].tolist()


def _files(folder: pathlib.Path, wanted: set[str]) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {e.name for e in entries if e.name in wanted and e.is_file()}
    except (OSError, ValueError):
        return set()
