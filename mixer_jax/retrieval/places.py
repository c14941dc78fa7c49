"""Finds the folders that an index refers to, even after a move.

A folder's path is stored relative to the index, in case both are moved
together, and as an absolute path, in case only the index is moved. The folder
of the pictures is recognized by the file sizes of the first pictures.
"""

import collections
import contextlib
import os
import pathlib
from collections.abc import Sequence

from mixer_jax.runtime import identity, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references
from mixer_jax.runtime.text import quoted

_MAX_PROBES = 100  # maximum number of pictures to look for in each folder


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


def sizes(root: pathlib.Path, names: Sequence[str]) -> list[int]:
    """Returns sizes in bytes of the first files under `root`; -1 if missing.

    Args:
      root: a folder.
      names: the files' names, of which at most `_MAX_PROBES` are used.
    """
    names = map(references.file_of, names[:_MAX_PROBES])
    files = [os.path.join(root, name) for name in names]
    return identity.stat(files)[0].tolist()


def find_images(
    roots: Sequence[pathlib.Path],
    names: Sequence[str],
    recorded: Sequence[int],
    images: str | os.PathLike = "",
) -> pathlib.Path:
    """Returns the folder with the most pictures; the first in case of a tie.

    A picture counts only if its file size is unchanged, since different
    pictures may share a name.

    Args:
      roots: the folders to choose from.
      names: the names of the pictures.
      recorded: the `sizes` of the original pictures; empty if unknown.
      images: the folder to return instead; "" for none.

    Raises:
      UserError: if `images` is not a folder.
    """
    if images:
        root = paths.local(images, "A picture")
        if not root.is_dir():
            raise UserError(
                f"There is no folder {root}; name the image folder with "
                "--images=FOLDER."
            )
        return paths.absolute(root)

    def count(root: pathlib.Path) -> tuple[int, bool]:
        now = sizes(root, names)
        same = sum(a == b >= 0 for a, b in zip(now, recorded, strict=False))
        return same, max(now, default=-1) >= 0

    return max(roots, key=count)


def check_images(
    root: pathlib.Path, names: Sequence[str], recorded: Sequence[int]
) -> str:
    """Returns a message about missing or changed pictures, or "".

    Args:
      root: the folder of the pictures.
      names: the names of the pictures.
      recorded: the `sizes` of the original pictures; empty if unknown.
    """
    if absent := missing(root, names):
        return (
            f"{len(absent)} of {len(names)} pictures are missing in {root}, "
            f"such as {absent[0]}; search works without them. If the pictures "
            "were moved, name their folder with --images=FOLDER."
        )
    now = sizes(root, names)
    changed = [
        name
        for name, size, before in zip(names, now, recorded, strict=False)
        if size != before
    ]
    if not changed:
        return ""
    return (
        f"{len(changed)} of the first {len(now)} pictures in {root} have "
        "changed in size since the index was built, such as "
        f"{quoted(changed[0])}; search still ranks the original ones. Name the "
        "folder of the originals with --images=FOLDER, or rebuild the index "
        "with python -m mixer_jax.index."
    )


def _files(folder: pathlib.Path, wanted: set[str]) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {e.name for e in entries if e.name in wanted and e.is_file()}
    except (OSError, ValueError):
        return set()
