"""Atomic file writes, records, and writability checks for destinations.

A file is written as a draft beside its destination, then renamed to it. The
draft is locked while it is being written, so that a later writer of the same
file can detect and remove the draft of a killed process.

A record is a JSON file that describes the other files of its folder. Its key
"format" is a whole number that increases with each change that older versions
of mixer_jax cannot read.
"""

import contextlib
import errno
import fcntl
import glob
import json
import os
import pathlib
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mixer_jax.runtime import command
from mixer_jax.runtime.errors import NewerFormatError, UserError
from mixer_jax.runtime.ownership import guards, replacing
from mixer_jax.runtime.text import quoted

Writer = Callable[[pathlib.Path], object]

_MAX_NAME_BYTES = 64  # bytes of the file name kept in a draft's name
_DRAFT = ".draft"
_POINTER = b"version https://git-lfs"  # first bytes of a Git LFS pointer
_MAX_POINTER = 1024  # bytes; the specification's limit


def write(
    path: str | os.PathLike, writer: Writer, *, one_of_many: bool = False
) -> None:
    """Writes a file atomically, following symbolic links.

    Args:
      path: the file; missing folders are created.
      writer: called with a path; writes the file there.
      one_of_many: whether the folder holds thousands of such files that can be
        recreated, such as images. If so, the write is not synced to disk, and
        stale drafts are not searched for.

    Raises:
      OSError: if the file cannot be written; no part of it remains.
      LostError: if another run has taken over the file; see `guards.guarded`.
    """
    with prepared(path, writer, one_of_many):
        pass


@contextlib.contextmanager
def prepared(
    path: str | os.PathLike, writer: Writer, one_of_many: bool = False
) -> Iterator[None]:
    """Writes a draft; renames it after the block, or removes it on an error."""
    target = resolve(path)
    with made(target.parent):
        if not one_of_many:
            _remove_stale_drafts(target)
        draft, lock = _begin(target)
        try:
            writer(draft)
            if not one_of_many:
                settle(draft)
            if target.exists():
                shutil.copymode(target, draft)
            yield
            if not one_of_many:
                guards.check(target)
            replacing.replace(draft, target)
        except BaseException as error:
            draft.unlink(missing_ok=True)
            # Report the destination, since users do not know the draft.
            if getattr(error, "filename", None) == os.fspath(draft):
                error.filename = os.fspath(target)
            raise
        finally:
            os.close(lock)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file atomically; see `write`."""
    write(path, text_writer(text))


def text_writer(text: str) -> Writer:
    """Returns a writer for a UTF-8 text file; see `write`."""
    content = text.encode()
    return lambda draft: draft.write_bytes(content)


def reason(error: Exception) -> str:
    """Returns the reason for an error, and the path it concerns, if known."""
    if not isinstance(error, OSError) or error.filename is None:
        return _cause(error)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        path = pathlib.Path(os.path.realpath(error.filename))
        return f"{_existing(path)} is not a folder"
    return f"{error.strerror}: {os.fspath(error.filename)}"


def room(path: str | os.PathLike) -> str:
    """Returns the free space of a path's file system, as in "0.02 GB free".

    Raises:
      OSError: if it cannot be determined.
    """
    system = os.statvfs(_existing(resolve(path)))
    free = f"{system.f_bavail * system.f_frsize / 1e9:.2f} GB free"
    # File systems without a limit on the number of files report 0.
    if system.f_files and not system.f_favail:
        free += ", but no more files can be created"
    return free


def check(path: str | os.PathLike, subject: str) -> None:
    """Checks that a file can be written, without creating it.

    Args:
      path: the file; it and its folders may be missing.
      subject: the subject of the error message, as in "The report".

    Raises:
      UserError: if the file cannot be written.
    """
    with _refusing(path, subject):
        target = resolve(path)
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            kind = "a folder" if target.is_dir() else "not a regular file"
            raise UserError(
                f"{subject} cannot be written to {os.fspath(path)}: it is "
                f"{kind}; choose a file name."
            )
        _try(_existing(target.parent))
        if target.exists():
            replacing.check(target)


def check_folder(
    folder: str | os.PathLike, subject: str, names: Iterable[str] = ()
) -> None:
    """Checks that files can be written into a folder; see `check`.

    Args:
      folder: the folder; it and its parents may be missing.
      subject: the subject of the error message, as in "The report".
      names: the names of the files; none of them may be a folder.
    """
    with _refusing(folder, subject):
        existing = _existing(resolve(folder))
        if not existing.is_dir():
            raise UserError(
                f"{subject} cannot be written to {os.fspath(folder)}: "
                f"{existing} is not a folder."
            )
        _try(existing)
    for name in names:
        check(os.path.join(folder, name), subject)


def check_fetched(*places: str | os.PathLike) -> None:
    """Checks that no file, given or in a given folder, is a Git LFS pointer.

    Raises:
      UserError: if one is a pointer; the message names the first.
    """
    for place in map(pathlib.Path, places):
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in inside:
            with contextlib.suppress(OSError):
                if not path.is_file() or path.stat().st_size > _MAX_POINTER:
                    continue
                if path.read_bytes().startswith(_POINTER):
                    raise UserError(
                        f"{path} is a Git LFS pointer instead of the file "
                        "itself; fetch the file with `git lfs pull`."
                    )


def read_record(
    path: pathlib.Path, newest: int, subject: str, remedy: str
) -> dict[str, Any]:
    """Returns the contents of a JSON file that describes a folder.

    Args:
      path: the JSON file.
      newest: the newest format that this version can read.
      subject: the subject of the error message, as in "The index in DIR".
      remedy: what the user can do, other than install a newer version.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged or has no valid format.
      NewerFormatError: if its format is newer than `newest`.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    version = record.get("format")
    # JSON's true is an int in Python.
    if type(version) is not int or version < 1:
        raise ValueError(f"the format in {path.name} is {quoted(version)}")
    if version > newest:
        raise NewerFormatError(
            f"{subject} has format {quoted(version)}, but this version of "
            f"mixer_jax reads only formats up to {newest}; install a newer "
            f"version, or {remedy}."
        )
    return record


def check_name(name: str) -> None:
    """Raises a `UserError` unless the name of a file or folder is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The name {name!a} is not valid UTF-8 and cannot be stored in the "
            "files of a run; rename the folder."
        ) from error


def resolve(path: str | os.PathLike) -> pathlib.Path:
    """Returns the absolute path with symbolic links resolved.

    Raises:
      OSError: if the links form a loop.
    """
    # Unlike realpath, stat raises for a symlink loop.
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)
    return pathlib.Path(os.path.realpath(path))


def make_folder(path: str | os.PathLike) -> list[pathlib.Path]:
    """Creates a folder and its parents, following symbolic links.

    Returns:
      The folders that were missing, the innermost first.
    """
    folder = resolve(path)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def open_unblocked(path: str | os.PathLike, flags: int) -> int:
    """Opens a file, without waiting for a writer if the file is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


@contextlib.contextmanager
def made(folder: pathlib.Path) -> Iterator[None]:
    """Creates a folder; if the block raises, removes it if it was new."""
    missing = make_folder(folder)
    try:
        yield
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):  # The folder might not be empty.
                path.rmdir()
        raise


@contextlib.contextmanager
def in_turn(path: str | os.PathLike) -> Iterator[None]:
    """Locks the folder of a file within a block; waits for other processes.

    Protects a file that is read, changed and written. The folder is created if
    it is missing. Does nothing if the folder cannot be locked.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder = resolve(path).parent
            stack.enter_context(made(folder))
            stack.enter_context(guards.locked(folder))
        yield


def settle(path: pathlib.Path) -> None:
    """Syncs a file to disk, so that it survives a power failure."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _begin(target: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Creates and locks a draft; returns its path and the lock's descriptor."""
    while True:
        token = secrets.token_hex(6)
        draft = target.with_name(f"{_stem(target)}{token}{_DRAFT}")
        lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(lock)
            # Another writer may have removed the draft before the lock.
            if os.path.exists(draft):
                return draft, lock
        except BaseException:
            os.close(lock)
            draft.unlink(missing_ok=True)
            raise
        os.close(lock)


def _stem(target: pathlib.Path) -> str:
    """Returns the common prefix of the names of a file's drafts."""
    name = os.fsencode(target.name)[:_MAX_NAME_BYTES]
    return f".{name.decode(errors='ignore')}."


def _remove_stale_drafts(target: pathlib.Path) -> None:
    """Removes drafts of a file that no process is writing."""
    pattern = glob.escape(_stem(target)) + "?" * 12 + _DRAFT
    for name in glob.glob(pattern, root_dir=target.parent, include_hidden=True):
        with contextlib.suppress(OSError):
            file = os.open(target.parent / name, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(target.parent / name)
            finally:
                os.close(file)


def _lock(file: int) -> None:
    # Without locks, as on some network file systems, stale drafts remain.
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _existing(path: pathlib.Path) -> pathlib.Path:
    """Returns the path or its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _try(folder: pathlib.Path) -> None:
    """Writes a one-byte temporary file to a folder."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")
        file.flush()


@contextlib.contextmanager
def _refusing(path: str | os.PathLike, subject: str) -> Iterator[None]:
    """Reports an error in the block as the reason to reject a destination."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"{subject} cannot be written to {os.fspath(path)}: "
            f"{_cause(error)}; choose another path."
        ) from error


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def is_filled(path: str) -> bool:
    """Returns whether a path names a regular file that is not empty.

    Raises:
      OSError: if the file system fails temporarily; the file may exist.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno in command.TRANSIENT:
            raise
        return False
    except ValueError:  # a null byte in the path
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0
