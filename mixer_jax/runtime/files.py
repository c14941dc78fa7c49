"""Files that appear whole or not at all, at places that were tried before.

A file is written as a draft beside its destination, which it replaces in one
step. A draft is locked while it is being written, so that the next writer of
the same file can tell one that a killed process has left, and removes it.
"""

import contextlib
import errno
import fcntl
import glob
import os
import pathlib
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator

from mixer_jax.errors import UserError
from mixer_jax.runtime import command

Writer = Callable[[pathlib.Path], object]

_LONGEST = 64  # bytes of a file's name that its draft's name has
_DRAFT = ".draft"


def write(
    path: str | os.PathLike, writer: Writer, *, one_of_many: bool = False
) -> None:
    """Writes a file whole or not at all, through symbolic links.

    Args:
      path: of the file; missing folders are made.
      writer: writes the file whose path it is given.
      one_of_many: whether it is one of thousands in its folder that can be
        made again, such as pictures. Then it does not wait for the disk, and
        does not look for drafts that were left behind.

    Raises:
      OSError: if the file cannot be written; nothing is left of it then.
    """
    target = resolve(path)
    with made(target.parent):
        if not one_of_many:
            _remove_left_behind(target)
        draft, lock = _begin(target)
        try:
            writer(draft)
            if not one_of_many:
                settle(draft)
            if target.exists():
                shutil.copymode(target, draft)
            _replace(draft, target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file, see `write`."""
    write(path, text_writer(text))


def text_writer(text: str) -> Writer:
    """Returns what writes a UTF-8 text."""
    content = text.encode()
    return lambda draft: draft.write_bytes(content)


def deliver(path: str | os.PathLike, writer: Writer, what: str) -> None:
    """Writes what a command has computed, which is not lost if that fails.

    Args:
      path: where it should be; `check` has tried it before.
      writer: see `write`; it may be called again for another path.
      what: it is, in a sentence: "The report".

    Raises:
      UserError: if it cannot be written there; names the file that has it
        instead, if any place could take it.
    """
    try:
        write(path, writer)
    except OSError as error:
        kept = rescue(pathlib.Path(path).name, writer)
        raise unwritable(what, path, error, kept) from error


def rescue(name: str, writer: Writer) -> pathlib.Path | None:
    """Writes a file or folder wherever there is room for it.

    Args:
      name: of the file or folder.
      writer: writes what has the path that it is given.

    Returns:
      Its path; None if the working directory and the system's folder of
      temporary files cannot take it either.
    """
    for place in (os.getcwd(), tempfile.gettempdir()):
        folder = None
        try:
            folder = tempfile.mkdtemp(prefix="rescued-", dir=place)
            kept = pathlib.Path(folder, name)
            writer(kept)
            return kept
        except OSError:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
    return None


def unwritable(
    what: str,
    path: str | os.PathLike,
    error: OSError,
    kept: pathlib.Path | None = None,
) -> UserError:
    """Returns the error that says why a destination cannot be written."""
    reason = error.strerror or str(error)
    if error.errno in command.NO_ROOM:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(_existing(resolve(path))).free
            reason += f", {free / 1e9:.2f} GB are free"
    message = f"{what} cannot be written to {os.fspath(path)}: {reason}."
    if kept is not None:
        message += f" It is in {kept} instead; move it where you want it."
    return UserError(message)


def check(path: str | os.PathLike, what: str) -> None:
    """Tries whether a file can be written, and leaves nothing behind.

    Args:
      path: of the file; it and its folders may be missing.
      what: it is, in a sentence: "The report".

    Raises:
      UserError: if it cannot.
    """
    try:
        target = resolve(path)
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            kind = "a folder" if target.is_dir() else "not a regular file"
            raise UserError(
                f"{what} cannot be written to {os.fspath(path)}: it is {kind}; "
                "name a file."
            )
        _try(_existing(target.parent))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _untried(what, path, error) from error


def check_folder(folder: str | os.PathLike, what: str) -> None:
    """Tries whether files can be written into a folder, see `check`."""
    try:
        target = resolve(folder)
        there = _existing(target)
        if not there.is_dir():
            raise UserError(
                f"{what} cannot be written to {os.fspath(folder)}: {there} is "
                "not a folder."
            )
        _try(there)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _untried(what, folder, error) from error


def resolve(path: str | os.PathLike) -> pathlib.Path:
    """Returns where a path leads: absolute, and through symbolic links.

    Raises:
      OSError: if its links lead in a circle.
    """
    # realpath gives up silently where links form a circle; stat does not.
    with contextlib.suppress(FileNotFoundError):
        os.stat(path)
    return pathlib.Path(os.path.realpath(path))


def make_folder(path: str | os.PathLike) -> None:
    """Makes a folder and those around it, also where a link leads to it."""
    resolve(path).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def made(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder; one that was missing is removed if the block raises."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):  # Something else is in it now.
                path.rmdir()
        raise


def settle(path: pathlib.Path) -> None:
    """Waits until a file is on the disk, so that a power cut cannot undo it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _replace(draft: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.replace(draft, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # The file itself is a mount point, as containers have them.
        shutil.copyfile(draft, target)
        draft.unlink()


def _begin(target: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Makes and locks a draft; returns its path and the lock's descriptor."""
    while True:
        token = secrets.token_hex(6)
        draft = target.with_name(f"{_stem(target)}{token}{_DRAFT}")
        lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(lock)
            # Somebody may have taken it for left behind just before.
            if os.path.exists(draft):
                return draft, lock
        except BaseException:
            os.close(lock)
            draft.unlink(missing_ok=True)
            raise
        os.close(lock)


def _stem(target: pathlib.Path) -> str:
    """Returns what the names of a file's drafts begin with."""
    name = os.fsencode(target.name)[:_LONGEST]
    return f".{name.decode(errors='ignore')}."


def _remove_left_behind(target: pathlib.Path) -> None:
    """Removes drafts of a file that nobody is writing any more."""
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
    # Some network file systems have no locks; drafts stay there if a process
    # is killed.
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _existing(path: pathlib.Path) -> pathlib.Path:
    """Returns the path or the nearest folder around it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _try(folder: pathlib.Path) -> None:
    """Writes a byte into a folder and takes it back."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")
        file.flush()


def _untried(what: str, path: str | os.PathLike, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"{what} cannot be written to {os.fspath(path)}: {reason}; name "
        "another place."
    )
