"""Checksums of a checkpoint's files, noted when it is whole.

What lies on a disk for days may come back with a bit flipped, which the format
of a checkpoint does not notice in an array's values. `FOLDER/checksums.json`
has every other file's size and CRC-32.

This is for local folders: a bucket compares its objects with checksums itself,
when they are written, while they lie there and when they are read.
"""

import contextlib
import json
import threading
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from mixer_jax.runtime import paths
from mixer_jax.runtime import threads as threads_lib

FILE = "checksums.json"
_PART = 2**24  # bytes read at once
_THREADS = 4  # that read and sum; neither holds Python's lock
_POLL = 0.1  # seconds between two looks whether a checkpoint is whole
_POLL_REMOTE = 10.0  # seconds; in a bucket, each check is a request


def note(folder: Path) -> None:
    """Writes the checksums of a folder that nobody changes any more."""
    sums = find(folder, _files(folder))
    paths.write(folder / FILE, json.dumps(sums, indent=0) + "\n")


def check(folder: Path, items: Collection[str] = ()) -> str:
    """Compares the files of a folder with what was noted.

    Args:
      folder: of the checkpoint.
      items: the folders in it whose files are compared; all files if empty.

    Returns:
      What is wrong with one of them, in a few words; "" if nothing is, or if
      nothing was noted.
    """
    try:
        noted = json.loads((folder / FILE).read_text(encoding="utf-8"))
        noted = {
            _checked(name): [int(size), int(total)]
            for name, (size, total) in noted.items()
        }
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError) as error:
        return f"{FILE} cannot be read: {error}"
    except (AttributeError, TypeError, OverflowError):
        noted = {}
    if not noted:
        return f"{FILE} holds no checksums"
    if items:
        parts = {name: name.partition("/")[0] for name in noted}
        noted = {name: noted[name] for name in noted if parts[name] in items}
    try:
        # Sizes first: they cost nothing.
        for name, (size, _) in noted.items():
            there = (folder / name).stat().st_size
            if there != size:
                return f"{name} has {there} of {size} bytes"
        now = find(folder, list(noted))
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except OSError as error:
        return f"a file cannot be read: {error}"
    wrong = [name for name in noted if now[name] != noted[name]]
    return f"{wrong[0]} differs from its checksum" if wrong else ""


def _checked(name: str) -> str:
    """Returns the name of a file in a folder, as `_files` gives them.

    Raises:
      ValueError: if it is none.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or b"\0" in name.encode():
        raise ValueError(f"{name!r} is not a file in its folder")
    return name


class Noting:
    """Checks new checkpoints in the background.

    `finish` reports what is missing. The checksums of complete checkpoints are
    stored.
    """

    def __init__(
        self,
        missing: Callable[[paths.Path], str] = lambda folder: "",
        is_whole: Callable[[paths.Path], bool] = lambda folder: folder.is_dir(),
    ):
        """Stores the two functions.

        Args:
          missing: describes what a checkpoint lacks; "" if nothing.
          is_whole: returns whether a checkpoint is fully written.
        """
        self._missing, self._is_whole = missing, is_whole
        self._threads: list[threading.Thread] = []
        self._found: list[str] = []
        self._over = threading.Event()

    def begin(self, folder: paths.Path) -> None:
        """Starts to wait for a checkpoint in the background, then checks it."""
        thread = threading.Thread(target=self._run, args=(folder,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def finish(self) -> str:
        """Returns what is missing, or ""; call it between saves."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._over.clear()
        found, self._found = self._found, []
        return "; ".join(found)

    def _run(self, folder: paths.Path) -> None:
        try:
            if self._wait(folder):
                missing = self._missing(folder)
            else:
                missing = "the folder does not exist"
        except paths.failures() as error:
            missing = f"it cannot be read, {paths.reason(error)}"
        if missing:
            self._found.append(missing)
        elif not paths.is_remote(folder):
            # If the disk is full, the next save reports it.
            with contextlib.suppress(OSError):
                note(folder)

    def _wait(self, folder: paths.Path) -> bool:
        """Waits until a folder is whole; False if stopped before."""
        # A checkpoint is written under another name and appears whole. Whether
        # a look is the last is asked before it: what comes in between counts.
        last = self._over.is_set()
        while not self._is_whole(folder):
            if last:
                return False
            poll = _POLL_REMOTE if paths.is_remote(folder) else _POLL
            last = self._over.wait(poll)
        return True


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != FILE
    )


def find(folder: Path, names: Sequence[str]) -> dict[str, list[int]]:
    """Returns `{name: [size, CRC-32]}` of files in a folder."""
    with threads_lib.pool(_THREADS) as pool:
        found = pool.map(lambda name: _sum(folder / name), names)
        return dict(zip(names, found, strict=True))


def _sum(path: Path) -> list[int]:
    size = total = 0
    with open(path, "rb") as file:
        while part := file.read(_PART):
            size += len(part)
            total = zlib.crc32(part, total)
    return [size, total]
