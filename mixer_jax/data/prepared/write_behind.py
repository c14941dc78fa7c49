"""Syncs large files to disk while they are written, and frees their pages."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from mixer_jax.runtime import threads

_EVERY = 64 << 20  # bytes


@contextlib.contextmanager
def write_behind(
    path: Path, every: int = _EVERY
) -> Iterator[Callable[[int], None]]:
    """Frees the pages of a file while a block writes it.

    Otherwise, the page cache would fill with them and lose the files being
    read. Freed pages are also used again: a virtual machine that gets memory
    from its host page by page needs several times longer for new ones. Systems
    without `posix_fadvise`, such as macOS, keep the pages.

    Args:
      path: the file.
      every: the number of bytes written between two syncs.

    Yields:
      A function to call with the number of bytes after each write. It never
      waits for the disk.
    """
    last: Future | None = None
    written = 0
    with threads.pool(1) as thread:

        def count(size: int) -> None:
            nonlocal last, written
            written += size
            if written >= every and (last is None or last.done()):
                written, last = 0, thread.submit(_settle, path)

        yield count


def settle(path: Path) -> None:
    """Syncs a file to disk and frees its pages.

    Raises:
      OSError: if the file is missing or the disk fails.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _settle(path: Path) -> None:
    # The writer itself reports a full disk.
    with contextlib.suppress(OSError):
        settle(path)
