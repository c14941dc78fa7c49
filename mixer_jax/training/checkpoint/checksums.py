"""Checksums of a checkpoint's files, written when it is complete.

Bits may flip on a disk, and the checkpoint format does not detect this in array
values. `FOLDER/checksums.json` holds the size and CRC-32 of every other file.

Only local folders have checksums: a bucket verifies its objects itself, when
they are written, stored and read.
"""

import contextlib
import json
import threading
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from mixer_jax.runtime import paths
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import LostError

FILE = "checksums.json"
_PART = 2**24  # bytes read at once
_THREADS = 4  # to read files and compute CRCs; both release the GIL
_POLL = 0.1  # seconds between checks for a complete checkpoint
_POLL_REMOTE = 10.0  # seconds; in a bucket, each check is a request


def write(folder: Path) -> None:
    """Writes the checksums of a folder whose files are final."""
    sums = find(folder, _files(folder))
    paths.write(folder / FILE, json.dumps(sums, indent=0) + "\n")


def check(folder: Path, items: Collection[str] = ()) -> str:
    """Compares the files of a folder with their checksums.

    Args:
      folder: the checkpoint's folder.
      items: the subfolders whose files are compared; all files if empty.

    Returns:
      A short description of one difference; "" if there is none, or if the
      folder has no checksums.
    """
    try:
        recorded = json.loads((folder / FILE).read_text(encoding="utf-8"))
        recorded = {
            _checked(name): [int(size), int(total)]
            for name, (size, total) in recorded.items()
        }
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError) as error:
        return f"{FILE} cannot be read: {error}"
    except (AttributeError, TypeError, OverflowError):
        recorded = {}
    if not recorded:
        return f"{FILE} contains no checksums"
    if items:
        recorded = {
            name: sums
            for name, sums in recorded.items()
            if name.partition("/")[0] in items
        }
    try:
        # Compare sizes first, because that is cheap.
        for name, (size, _) in recorded.items():
            there = (folder / name).stat().st_size
            if there != size:
                return f"{name} has {there} of {size} bytes"
        now = find(folder, list(recorded))
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except OSError as error:
        return f"a file cannot be read: {error}"
    wrong = [name for name in recorded if now[name] != recorded[name]]
    return f"{wrong[0]} differs from its checksum" if wrong else ""


def _checked(name: str) -> str:
    """Returns `name` if it is a path inside the folder.

    Raises:
      ValueError: if it is not.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or b"\0" in name.encode():
        raise ValueError(f"{name!r} is not a path inside the folder")
    return name


class BackgroundChecks:
    """Checks new checkpoints in the background.

    It writes checksums for complete checkpoints; `finish` reports what
    incomplete ones lack.
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
        """Starts a thread that waits for a checkpoint and then checks it."""
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
            missing = f"it cannot be read: {paths.reason(error)}"
        if missing:
            self._found.append(missing)
        elif not paths.is_remote(folder):
            # The next save reports a full disk or a takeover by another run.
            with contextlib.suppress(OSError, LostError):
                write(folder)

    def _wait(self, folder: paths.Path) -> bool:
        """Waits for a complete folder; returns False if stopped before that."""
        # A checkpoint is written under another name and renamed when complete.
        # Read the stop flag before each check, because the checkpoint may be
        # completed in between.
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
