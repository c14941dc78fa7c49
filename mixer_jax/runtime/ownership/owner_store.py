"""Stores the record of a folder's owner in the folder itself.

If the file system supports locks, the folder is locked as well.
"""

import contextlib
import fcntl
import functools
import os
import pathlib
import secrets
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from mixer_jax.runtime import files
from mixer_jax.runtime.ownership import owner_record
from mixer_jax.runtime.ownership.owner_record import Record

PREFIX = ".owner"  # prefix of the names of all files written here
RECORD = PREFIX + "{}.json"
LOCK = PREFIX + "{}"
_MAX_BYTES = 2**16  # maximum bytes of a record


def is_part(path: pathlib.Path) -> bool:
    """Returns whether a file belongs to the record of its folder's owner."""
    return path.name.startswith(PREFIX)


class Seen(NamedTuple):
    """The state of a stored record when it was read.

    Attributes:
      record: the record; None if it is missing or invalid.
      version: changes with every heartbeat; None if the record is missing.
      age: returns the seconds since the last heartbeat, by the storage's clock.
    """

    record: Record | None
    version: Any
    age: Callable[[], float]

    def is_of(self, owner: Record) -> bool:
        """Returns whether the stored record belongs to an owner."""
        return self.record is not None and self.record.token == owner.token


class Folder:
    """Stores the record in a local folder or a network file system."""

    failures = (OSError, ValueError)  # raised if reading or writing fails
    reason = staticmethod(files.reason)

    def __init__(self, folder: pathlib.Path, part: str = ""):
        self.folder = folder
        self._path = folder / RECORD.format(part)
        self._lock_path = folder / LOCK.format(part)
        self._file: int | None = None
        self._made: list[pathlib.Path] = []

    def lock(self) -> bool | None:
        """Tries to lock; returns None if held, and False if unsupported."""
        while True:
            file = self._make_lock()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return None
            except OSError:
                os.close(file)
                return False
            if _is_at(file, self._lock_path):
                _LOCK_FILES.add(file)
                self._file = file
                return True
            os.close(file)  # The previous owner has removed the lock file.

    def _make_lock(self) -> int:
        self._make()
        try:
            return _open_lock(self._lock_path)
        except FileNotFoundError:
            # Another run ended and removed the folder, which was empty.
            self._make()
            return _open_lock(self._lock_path)

    def read(self) -> Seen:
        """Reads the stored record."""
        try:
            # Opening a file refreshes its attributes on network file systems.
            with open(self._path, "rb", opener=files.open_unblocked) as file:
                changed = os.fstat(file.fileno())
                is_file = stat.S_ISREG(changed.st_mode)
                text = file.read(_MAX_BYTES) if is_file else b""
        except FileNotFoundError:
            return Seen(None, None, lambda: 0.0)
        age = functools.partial(self._age, changed.st_mtime)
        record = owner_record.parse(text.decode(errors="replace"))
        return Seen(record, _version(changed), age)

    def write(self, record: Record, version: Any) -> bool:
        """Writes the record if `version` is current; returns whether it did.

        Without locks, two runs may start at the same time. If both replace the
        same version, only one succeeds.
        """
        draft = self.folder / f"{PREFIX}-{record.token}"
        try:
            draft.write_text(owner_record.to_json(record), encoding="utf-8")
            if version is not None and not self._remove(version, record.token):
                return False
            return _link(draft, self._path)
        finally:
            draft.unlink(missing_ok=True)

    def _remove(self, version: Any, token: str) -> bool:
        """Removes the record if its version matches; returns whether it did."""
        aside = self.folder / f"{PREFIX}-{token}-old"
        try:
            if _version(os.stat(self._path)) != version:
                return False
            os.rename(self._path, aside)
        except FileNotFoundError:
            return False
        try:
            if _version(os.stat(aside)) == version:
                return True
            _link(aside, self._path)  # Another run replaced it first.
            return False
        finally:
            aside.unlink(missing_ok=True)

    def beat(self, record: Record) -> bool:
        """Updates the record's time; returns False if it has been replaced."""
        if not self.read().is_of(record):
            return False
        os.utime(self._path)  # uses the server's clock on network file systems
        return True

    def close(self, record: Record) -> None:
        """Removes this owner's record, then its lock."""
        try:
            with contextlib.suppress(OSError):
                if self.read().is_of(record):
                    self._path.unlink()
        finally:
            self._unlock()
        with contextlib.suppress(OSError):  # The folder might not be empty.
            while self._made:
                self._made.pop().rmdir()

    def _unlock(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        with contextlib.suppress(OSError):
            # If the folder was moved, the path may lead to another lock.
            if _is_at(file, self._lock_path):
                self._lock_path.unlink()
        _LOCK_FILES.discard(file)
        os.close(file)

    def _make(self) -> None:
        """Creates the folder; remembers which parents were missing."""
        missing = files.make_folder(self.folder)
        self._made = self._made or missing[::-1]

    def _age(self, changed: float) -> float:
        """Returns the seconds since `changed`, by the file system's clock."""
        probe = self.folder / f"{PREFIX}-{secrets.token_hex(8)}"
        try:
            probe.touch()
            return probe.stat().st_mtime - changed
        finally:
            probe.unlink(missing_ok=True)


_LOCK_FILES: set[int] = set()  # descriptors locked by this process


def _close_lock_files() -> None:
    """Closes the lock files in a child process, which must not hold locks."""
    for file in _LOCK_FILES:
        with contextlib.suppress(OSError):
            os.close(file)
    _LOCK_FILES.clear()


os.register_at_fork(after_in_child=_close_lock_files)


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns


def _link(source: pathlib.Path, target: pathlib.Path) -> bool:
    """Links a file to a new name; returns False if the name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        # A repeated call finds its own file if the first reply was lost.
        return os.path.samefile(source, target)
    except OSError:  # The file system has no hard links.
        if target.exists():
            return False
        os.rename(source, target)
    return True


def _open_lock(path: pathlib.Path) -> int:
    # Child programs do not inherit the descriptor (PEP 446).
    try:
        return files.open_unblocked(path, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        # Another user's lock file can still be locked. In a shared folder, it
        # can be removed, too.
        if not path.exists():
            raise
        return files.open_unblocked(path, os.O_RDONLY)


def _is_at(file: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
