"""Versioned folders: a new version replaces old ones that are not in use.

A reader holds a shared lock on the folder itself, which the kernel releases
when the process ends. Removing a folder requires an exclusive lock; if the
file system does not support locks, nothing is removed.

A folder's record, manifest.json, holds the format of its files. Folders of a
newer format are neither read nor removed. An unfinished folder is a draft,
which the next process that drafts the same folder continues.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import NewerFormatError

FORMAT = 5  # increases with each change that older versions cannot read
RECORD = "manifest.json"
_NAME = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{8}){1,2}")
_DRAFT = ".partial-"
Say = Callable[[str], None]
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


def write_record(folder: Path, **contents: Any) -> None:
    """Records the format of a folder's files, and other contents."""
    text = json.dumps({"format": FORMAT} | contents)
    files.write_text(folder / RECORD, f"{text}\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns a folder's record; None if it is missing, damaged or older.

    Raises:
      NewerFormatError: if the format is newer than this version can read.
    """
    subject = f"The prepared data in {folder}"
    remedy = "set the config's data.prepared to another folder"
    try:
        record = files.read_record(folder / RECORD, FORMAT, subject, remedy)
    except NewerFormatError:
        raise
    except (OSError, ValueError):
        return None
    return record if record["format"] == FORMAT else None


def is_version(folder: Path) -> bool:
    """Returns whether a folder has the name of a finished version."""
    return bool(_NAME.fullmatch(folder.name))


def remove_others(folder: Path) -> None:
    """Removes the other versions of a folder that are not in use.

    Versions in a newer format are kept.
    """
    for other in folder.parent.iterdir():
        if other == folder or not is_version(other):
            continue
        with contextlib.suppress(NewerFormatError):
            read_record(other)  # raises for newer formats
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
def draft(
    parent: Path, name: str, say: Say, *, any_host: bool = False
) -> Iterator[Path]:
    """Yields a folder in `parent` that no other run on this host uses.

    It is removed on exit, but kept if the block raises or the process is
    killed. Other drafts of killed processes are removed.

    Args:
      parent: the folder of the draft.
      name: identifies the data; an existing draft of that name is continued.
      say: called with a message before waiting for another process.
      any_host: whether hosts share the draft: any host can continue it, but
        only one run at a time can use it.

    Raises:
      OSError: if the folder cannot be created.
    """
    folder = parent / f"{_prefix(any_host)}{name}"
    for left in parent.iterdir():
        other = left.name.startswith(_DRAFT) and left != folder
        if other and _may_be_abandoned(left):
            remove_unused(left)
    descriptor = _lock(folder, say)
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(folder: Path, say: Say) -> int:
    """Creates and locks a folder; waits until no other process uses it."""
    while True:
        folder.mkdir(exist_ok=True)
        descriptor = _open(folder)
        if descriptor is None:
            continue  # Another process removed it before it was locked.
        with contextlib.suppress(OSError):  # Locks may be unsupported.
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(
                    "Waiting for another process that is preparing the same "
                    "data."
                )
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_same(descriptor, folder):
            with contextlib.suppress(OSError):
                os.utime(folder)  # Its age shows whether it is abandoned.
            return descriptor
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


def _prefix(any_host: bool = False) -> str:
    if any_host:
        return f"{_DRAFT}any-"
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
