"""Walks a folder tree; yields every entry or counts it as left out."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mixer_jax.data.readers.rows import LeftOut
from mixer_jax.runtime import command
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import owner_store

HIDDEN = "hidden files and folders"
DANGLING = "broken links"
CYCLE = "links to a folder that contains them"
AGAIN = "links in a linked folder that were followed under another name"
SPECIAL = "special files"  # sockets, pipes, devices
UNREADABLE = "unreadable files and folders"
NOT_UTF8 = "with a file name that is not UTF-8"

_Identity = tuple[int, int]  # device and inode


class _Folder(NamedTuple):
    """A folder that has not been listed yet.

    Attributes:
      parts: the parts of its path relative to the root.
      ancestors: the folders that contain it.
      is_linked: whether a folder of `parts` is a link.
    """

    parts: tuple[str, ...]
    ancestors: frozenset[_Identity]
    is_linked: bool


def walk(
    root: Path, left_out: LeftOut
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yields each folder of a tree with its files.

    Links are followed: a folder with two links to it is yielded under both
    names. A link inside a linked folder is followed under one name only,
    because folders that link to each other have too many names to list. Only
    folders are opened, never files. Ownership records of runs are not counted.

    Args:
      root: the topmost folder.
      left_out: updated with the number of skipped entries by reason.

    Yields:
      `(parts, names)`: the parts of the folder's path relative to `root`, and
      the sorted names of its regular files. Parents precede their children, and
      siblings are sorted by name.

    Raises:
      UserError: if `root` cannot be listed.
      OSError: if the file system fails temporarily.
    """
    pending = [_Folder((), frozenset(), False)]
    followed: set[tuple[_Identity, str]] = set()  # folder and name of each link
    while pending:
        parts, ancestors, is_linked = pending.pop()
        folder = os.path.join(root, *parts)
        try:
            identity = _identity(os.stat(folder))
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if error.errno in command.TRANSIENT:
                raise
            if not parts:
                reason = error.strerror or error
                raise UserError(f"{root} cannot be read: {reason}.") from error
            left_out[UNREADABLE] += 1
            continue
        ancestors |= {identity}
        files, inside = [], []
        for entry in entries:
            if entry.name.startswith(owner_store.PREFIX):
                continue
            kind = _kind(entry, ancestors)
            if kind == stat.S_IFREG:
                files.append(entry.name)
                continue
            link = entry.is_symlink()
            if kind == stat.S_IFDIR and link and is_linked:
                kind = AGAIN if (identity, entry.name) in followed else kind
                followed.add((identity, entry.name))
            if kind == stat.S_IFDIR:
                below = (*parts, entry.name)
                inside.append(_Folder(below, ancestors, is_linked or link))
            else:
                left_out[kind] += 1
        yield parts, files
        pending += reversed(inside)


def is_utf8(name: str) -> bool:
    """Returns whether a path can be written into a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(entry: os.DirEntry, ancestors: frozenset[_Identity]) -> int | str:
    """Returns S_IFREG, S_IFDIR, or the reason for excluding an entry."""
    if entry.name.startswith("."):
        return HIDDEN
    try:
        if entry.is_file(follow_symlinks=False):  # needs no system call
            return stat.S_IFREG
        status = os.stat(entry.path)
    except OSError as error:
        if error.errno in command.TRANSIENT:
            raise
        return DANGLING if entry.is_symlink() else UNREADABLE
    if stat.S_ISREG(status.st_mode):
        return stat.S_IFREG
    if not stat.S_ISDIR(status.st_mode):
        return SPECIAL
    return CYCLE if _identity(status) in ancestors else stat.S_IFDIR


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
