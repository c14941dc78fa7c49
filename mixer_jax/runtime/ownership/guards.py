"""Guards for files about to be replaced.

Several files that belong together are replaced and read under the lock of their
folder. A run cannot replace a file that another run has taken over.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator

_GUARDS: list[tuple[pathlib.Path, Callable[[], None]]] = []


@contextlib.contextmanager
def guarded(path: pathlib.Path, check: Callable[[], None]) -> Iterator[None]:
    """Calls `check` whenever a file is about to be replaced within a block.

    Args:
      path: a file, or a folder of files; without symbolic links.
      check: raises a `LostError` if the file must not be replaced.
    """
    guard = path, check
    _GUARDS.append(guard)
    try:
        yield
    finally:
        _GUARDS.remove(guard)


def check(target: pathlib.Path) -> None:
    """Raises a `LostError` if another run has taken over the file."""
    for path, check_owner in list(_GUARDS):
        if target.is_relative_to(path):
            check_owner()


@contextlib.contextmanager
def locked(
    folder: str | os.PathLike, kind: int = fcntl.LOCK_EX
) -> Iterator[None]:
    """Locks a folder within a block, so that its files are replaced together.

    Waits for other processes. Does nothing if the folder cannot be locked.

    Args:
      folder: the folder.
      kind: `fcntl.LOCK_EX` for a writer, or `fcntl.LOCK_SH` for a reader.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            held.callback(os.close, handle)
            fcntl.flock(handle, kind)
        yield


def steady(
    folder: str | os.PathLike,
) -> contextlib.AbstractContextManager[None]:
    """Keeps a folder's files from being replaced while they are read."""
    return locked(folder, fcntl.LOCK_SH)
