"""Versioned folders: a new version replaces old ones that are not in use.

A reader holds a shared lock on the folder itself, which the kernel releases
when the process ends. Removing a folder requires an exclusive lock; if the
file system does not support locks, nothing is removed.

A folder's record, prepared.json, holds the format of its files. Folders of a
newer format are neither read nor removed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import NewerFormatError

FORMAT = 1  # increases with each change that older versions cannot read
RECORD = "prepared.json"
_NAME = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8}){1,2}")
_DRAFT = ".partial-"
_STALE = 24 * 3600  # seconds until another host's draft counts as stale


class Hold:
    """A shared lock that protects a folder from removal while it exists."""

    def __init__(self, descriptor: int):
        """Takes ownership of the locked folder's file descriptor."""
        self._close = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Allows other processes to remove the folder."""
        self._close()


def hold(folder: Path) -> Hold | None:
    """Returns a lock that protects a folder, or None if it does not exist."""
    descriptor = _open(folder)
    if descriptor is None:
        return None
    with contextlib.suppress(OSError):  # Locks may be unsupported.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_same(descriptor, folder):  # Removed while waiting.
        os.close(descriptor)
        return None
    return Hold(descriptor)


def write_record(folder: Path) -> None:
    """Records the format of a folder's files."""
    files.write_text(folder / RECORD, json.dumps({"format": FORMAT}) + "\n")


def has_record(folder: Path) -> bool:
    """Returns whether a folder has an undamaged record.

    Raises:
      NewerFormatError: if the format is newer than this version can read.
    """
    subject = f"The prepared data in {folder}"
    remedy = "set the config's data.prepared to another folder"
    try:
        files.read_record(folder / RECORD, FORMAT, subject, remedy)
    except NewerFormatError:
        raise
    except (OSError, ValueError):
        return False
    return True


def remove_others(folder: Path) -> None:
    """Removes the other versions of a folder that are not in use.

    Versions in a newer format are kept.
    """
    for other in folder.parent.iterdir():
        if other == folder or not _NAME.fullmatch(other.name):
            continue
        with contextlib.suppress(NewerFormatError):
            has_record(other)  # raises for newer formats
            remove_unused(other)


def remove_unused(folder: Path) -> bool:
    """Removes a folder unless it is in use; returns whether it was removed."""
    descriptor = _open(folder)
    if descriptor is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_same(descriptor, folder):
            return False
        # Rename first, so that no reader finds a partly removed folder.
        doomed = Path(tempfile.mkdtemp(prefix=_prefix(), dir=folder.parent))
        folder.rename(doomed / folder.name)
        shutil.rmtree(doomed, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def draft(parent: Path) -> Iterator[Path]:
    """Yields an empty folder in `parent` and removes it on exit.

    Stale drafts of killed processes are removed first.

    Raises:
      OSError: if the folder cannot be created.
    """
    for left in parent.iterdir():
        if left.name.startswith(_DRAFT) and _may_be_abandoned(left):
            remove_unused(left)
    folder, descriptor = _locked_draft(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked_draft(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=parent))
        descriptor = _open(folder)
        if descriptor is None:
            continue  # Another process removed the draft before it was locked.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_same(descriptor, folder):
            return folder, descriptor
        os.close(descriptor)


def _may_be_abandoned(folder: Path) -> bool:
    """Returns whether a draft is stale or was created on this host.

    On the same host, the lock shows whether the draft is still in use.
    """
    if folder.name.startswith(_prefix()):
        return True
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime > _STALE
    return False


def _prefix() -> str:
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()
    return f"{_DRAFT}{host[:8]}-"


def _open(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def _is_same(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except OSError:
        return False
