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
from pathlib import Path

from mixer_jax import paths
from mixer_jax.runtime import threads as threads_lib

FILE = "checksums.json"
_PART = 2**24  # bytes read at once
_THREADS = 4  # that read and sum; neither holds Python's lock
_POLL = 0.1  # seconds between two looks whether a checkpoint is whole


def note(folder: Path) -> None:
    """Writes the checksums of a folder that nobody changes any more."""
    sums = _sums(folder, _files(folder))
    paths.write(folder / FILE, json.dumps(sums, indent=0) + "\n")


def check(folder: Path) -> str:
    """Compares the files of a folder with what was noted.

    Returns:
      What is wrong with one of them, in a few words; "" if nothing is, or if
      nothing was noted.
    """
    try:
        noted = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"{FILE} cannot be read: {error}"
    try:
        # Sizes first: they cost nothing.
        for name, (size, _) in noted.items():
            there = (folder / name).stat().st_size
            if there != size:
                return f"{name} has {there} of {size} bytes"
        now = _sums(folder, list(noted))
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except OSError as error:
        return f"a file cannot be read: {error}"
    wrong = [name for name in noted if now[name] != noted[name]]
    return f"{wrong[0]} differs from its checksum" if wrong else ""


class Noting:
    """Notes a checkpoint's checksums in the background, once it is whole."""

    def __init__(self):
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def begin(self, folder: Path) -> None:
        """Waits in the background for a folder to appear, then notes it."""
        thread = threading.Thread(target=self._run, args=(folder,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def finish(self) -> None:
        """Returns when all is noted that is there; call it between saves."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._over.clear()

    def _run(self, folder: Path) -> None:
        # A checkpoint is written under another name and appears whole. Whether
        # a look is the last is asked before it: what comes in between counts.
        last = self._over.is_set()
        while not folder.is_dir():
            if last:
                return
            last = self._over.wait(_POLL)
        # It fails where the disk is full, which the next save will say.
        with contextlib.suppress(OSError):
            note(folder)


def _files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != FILE
    )


def _sums(folder: Path, names: list[str]) -> dict[str, list[int]]:
    """Returns `{name: [size, CRC-32]}`."""
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
