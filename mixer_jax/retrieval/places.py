"""Where the things that an index refers to are, also after a move.

A place is kept relative to the index folder, for a move of all together, and
absolute, for a move of the index alone.
"""

import collections
import contextlib
import os
import pathlib
from collections.abc import Sequence

from mixer_jax import paths


def save(target: paths.Path, folder: str | os.PathLike) -> list[str]:
    """Returns the names under which `load` finds a target again.

    Args:
      target: a folder on this machine or in a bucket.
      folder: the index's.
    """
    if paths.is_remote(target):
        return [str(target)]
    names = []
    for resolve in (os.path.abspath, os.path.realpath):  # with links, without
        # There is no relative path between two drives.
        with contextlib.suppress(ValueError):
            names.append(os.path.relpath(resolve(target), resolve(folder)))
    return list(dict.fromkeys([*names, os.path.abspath(target)]))


def load(
    names: str | Sequence[str], folder: str | os.PathLike
) -> list[paths.Path]:
    """Returns the absolute paths where a target may be, the likeliest first.

    Args:
      names: what `save` returned, or a single path.
      folder: the index's, where it is now.

    Raises:
      ValueError: if these are not the names of paths.
    """
    names = [names] if isinstance(names, str) else names
    if not (isinstance(names, list) and names):
        raise ValueError("it names no place")
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{names!r} are not the names of places")
    found = {}
    for name in names:
        if "://" in name:
            found[paths.make(name)] = None
            continue
        for resolve in (os.path.abspath, os.path.realpath):
            # Without links that `..` would leave elsewhere.
            path = os.path.normpath(os.path.join(resolve(folder), name))
            found[pathlib.Path(path)] = None
    return list(found)


def missing(root: pathlib.Path, names: Sequence[str]) -> list[str]:
    """Returns those of the names that are no files under `root`, in order.

    Folders are listed, which is faster than to ask for each file.
    """
    inside = collections.defaultdict(set)
    for name in names:
        folder, file = os.path.split(name)
        inside[folder].add(file)
    there = {
        folder: _files(root / folder, files) for folder, files in inside.items()
    }
    gone = []
    for name in names:
        folder, file = os.path.split(name)
        if file not in there[folder]:
            gone.append(name)
    return gone


def _files(folder: pathlib.Path, wanted: set[str]) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {e.name for e in entries if e.name in wanted and e.is_file()}
    except (OSError, ValueError):
        return set()
