"""Folders whose files are replaced together, atomically.

A new generation of files is written to a hidden folder inside the destination,
which can therefore be a symbolic link or a mount point. A pointer file, created
atomically, switches to it. Then its files are moved into place, and those of
the previous generation are removed. A process killed before the switch has
changed nothing; after it, readers follow the pointer to the new files, and the
next writer finishes the moves.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from mixer_jax.runtime import files, paths, results
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import (
    folder_lock,
    guards,
    owner_store,
    replacing,
)

_Read = TypeVar("_Read")
_GENERATION = ".generation-"
_POINTER = ".generation.json"
_NAME = re.compile(re.escape(_GENERATION) + "[0-9a-f]+")


class Kind(NamedTuple):
    """A kind of folder.

    Attributes:
      label: the kind's name in messages, "index" or "export".
      mark: the file that identifies the kind.
      names: all files and folders of this kind, including the mark; the names
        of folders have no suffix.
      record: the JSON file that distinguishes this kind from other programs'
        folders, whose files may have the same names; "" for none.
      keys: the keys that the record must have.
    """

    label: str
    mark: str
    names: tuple[str, ...]
    record: str = ""
    keys: tuple[str, ...] = ()


class _Pointed(NamedTuple):
    """Contents of a pointer file."""

    folder: pathlib.Path  # the generation's folder
    names: tuple[str, ...]  # its files and folders, even if already moved


def check(folder: str | os.PathLike, kind: Kind) -> None:
    """Checks that `folder` can be written, and is new, empty or of this kind.

    Raises:
      UserError: if it is a file, has other contents or cannot be written.
    """
    _check_kind(folder, kind)
    names = [name for name in kind.names if pathlib.Path(name).suffix]
    files.check_folder(folder, f"The {kind.label}", names)
    for name in set(kind.names).difference(names):
        if os.path.ismount(os.path.join(folder, name)):
            raise UserError(
                f"The {kind.label} cannot be written to {os.fspath(folder)}: "
                f"its folder {name} is a mount point, which cannot be "
                "replaced; unmount it, or choose another folder."
            )


@contextlib.contextmanager
def owned(folder: str | os.PathLike, kind: Kind) -> Iterator[None]:
    """Reserves a folder while a command computes and writes its contents.

    Raises:
      UserError: if `check` fails, or another run owns the folder.
    """
    check(folder, kind)
    with folder_lock.hold(folder, "--out"):
        yield


def _check_kind(folder: str | os.PathLike, kind: Kind) -> None:
    label = f"The {kind.label}"
    folder = paths.local(folder, label)
    # Unlike pathlib, `os.path` reports a name that is too long as missing.
    exists = os.path.exists(folder)
    is_folder = os.path.isdir(folder)
    if exists and not is_folder:
        raise UserError(
            f"{label} is written to a folder, but {folder} is a file."
        )
    if not is_folder:
        return
    with guards.steady(folder):
        if _is_of(folder, kind):
            return
        if any(not _is_ours(path) for path in _contents(folder, label)):
            raise UserError(
                f"{folder} has contents other than the {kind.label}'s files; "
                "choose another folder, or empty this one."
            )


def _contents(folder: pathlib.Path, label: str) -> list[pathlib.Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"{label} cannot be written to {folder}, whose contents cannot be "
            f"listed: {error.strerror}; choose another folder."
        ) from error


def _is_of(folder: pathlib.Path, kind: Kind) -> bool:
    """Returns whether a folder is of this kind, even if it is damaged."""
    if not find(folder, kind.mark).is_file():
        return False
    if not kind.record:
        return True
    try:
        record = json.loads(find(folder, kind.record).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return all(find(folder, name).exists() for name in kind.names)
    return isinstance(record, dict) and record.keys() >= {*kind.keys}


def write(
    folder: str | os.PathLike,
    kind: Kind,
    writer: files.Writer,
    *,
    rescue: bool = False,
) -> None:
    """Writes a new generation of a folder atomically.

    Args:
      folder: see `check`.
      kind: the kind of the folder.
      writer: called with the path of an empty folder; writes files and folders
        of the kind's names there.
      rescue: whether to save the files elsewhere if the folder cannot be
        written; if so, `writer` may be called again.

    Raises:
      UserError: if the folder has other contents or cannot be written; the
        message names the folder where the files were saved instead, if any.
    """
    try:
        # Since the folder was checked, the disk may have filled up, or another
        # program may have put files there.
        _check_kind(folder, kind)
        target = files.resolve(folder)
        with files.made(target):
            with guards.locked(target):
                finish(target, kind)
            with _draft(target) as draft:
                writer(draft)
                with guards.locked(target):
                    finish(target, kind)  # another writer's unfinished moves
                    _switch(target, draft)
            with guards.locked(target):
                finish(target, kind)
    except (OSError, UserError) as error:
        rescued = None
        if rescue:

            def fill(destination: pathlib.Path) -> None:
                destination.mkdir()
                writer(destination)

            rescued = results.rescue(pathlib.Path(folder).name, fill)
        label = f"The {kind.label}"
        raise results.unwritable(label, folder, error, rescued) from error


def find(folder: str | os.PathLike, name: str) -> pathlib.Path:
    """Returns the path of a file in the latest generation."""
    folder = pathlib.Path(folder)
    pointed = _pointed(folder)
    if pointed is None:
        return folder / name
    inside = pointed.folder / name
    # A file that is no longer in the generation's folder has been moved.
    moved = name in pointed.names and not inside.exists()
    return folder / name if moved else inside


def read_whole(
    folder: str | os.PathLike, kind: Kind, read: Callable[[], _Read]
) -> _Read:
    """Calls `read` so that it sees the files of a single generation.

    `read` looks up files with `find`. It is called again if a writer replaces
    or moves files meanwhile.
    """
    while True:
        before = _versions(folder, kind)
        try:
            result = read()
        except Exception:
            if _versions(folder, kind) == before:
                raise
            continue
        if _versions(folder, kind) == before:
            return result


def _versions(folder: str | os.PathLike, kind: Kind) -> list[tuple]:
    """Returns values that change when a file is replaced or moved."""
    versions = []
    for name in kind.names:
        path = find(folder, name)
        with contextlib.suppress(OSError):
            status = path.stat()
            versions.append((path, status.st_ino, status.st_mtime_ns))
    return versions


def finish(folder: pathlib.Path, kind: Kind) -> None:
    """Moves the current generation into place and removes the others."""
    pointed = _pointed(folder)
    if pointed is not None:
        for name in kind.names:
            if name not in pointed.names:
                _remove(folder / name)
            elif (pointed.folder / name).exists():
                if (folder / name).is_dir() or (pointed.folder / name).is_dir():
                    _remove(folder / name)
                replacing.replace(pointed.folder / name, folder / name)
        (folder / _POINTER).unlink()
        shutil.rmtree(pointed.folder, ignore_errors=True)
    for leftover in folder.glob(f"{_GENERATION}*"):
        with contextlib.suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover)


@contextlib.contextmanager
def _draft(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the folder of a new generation; removes it if the block raises."""
    draft = folder / f"{_GENERATION}{secrets.token_hex(6)}"
    with contextlib.ExitStack() as stack:
        with guards.locked(folder):
            draft.mkdir()
            # On file systems without locks, drafts of killed processes remain.
            with contextlib.suppress(OSError):
                stack.enter_context(_locked(draft))
        try:
            yield draft
        except BaseException:
            pointed = _pointed(folder)
            if pointed is None or pointed.folder != draft:
                shutil.rmtree(draft, ignore_errors=True)
            raise


def _switch(folder: pathlib.Path, draft: pathlib.Path) -> None:
    for path in draft.rglob("*"):
        if path.is_file():
            files.settle(path)
    names = sorted(path.name for path in draft.iterdir())
    pointer = {"generation": draft.name, "names": names}
    files.write_text(folder / _POINTER, json.dumps(pointer) + "\n")


def _pointed(folder: pathlib.Path) -> _Pointed | None:
    """Returns the generation named by the pointer file, if the file exists.

    Raises:
      UserError: if the pointer is damaged, or its generation is missing.
    """
    path = folder / _POINTER
    try:
        text = path.read_text(encoding="utf-8")
        pointer = json.loads(text)
        name, names = pointer["generation"], pointer["names"]
        # Never read, move or remove files that no writer created.
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ValueError(f"{name!r} is not the name of a generation")
        if not (isinstance(names, list) and set(map(type, names)) <= {str}):
            raise ValueError(f"{names!r} is not a list of names")
        if not (folder / name).is_dir():
            # The generation may have been moved since the pointer was read.
            if path.read_text(encoding="utf-8") != text:
                return _pointed(folder)
            raise ValueError(f"there is no folder {name}")
        return _Pointed(folder / name, tuple(names))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; ask for access to its "
            "folder, or choose another folder."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and recreate {folder}."
        ) from error


def _is_ours(path: pathlib.Path) -> bool:
    """Returns whether a writer, even one that was killed, created this path."""
    begin = (_GENERATION, _POINTER, f".{_POINTER}")
    return path.name.startswith(begin) or owner_store.is_part(path)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder; raises `OSError` if another process has locked it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
