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
import secrets
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from mixer_jax import paths
from mixer_jax.errors import UserError
from mixer_jax.runtime import files

_GENERATION = ".generation-"
_POINTER = ".generation.json"


class Kind(NamedTuple):
    """A kind of folder.

    Attributes:
      what: its name in messages, "index" or "export".
      mark: the file that identifies the kind.
      names: all files and folders of this kind, including the mark.
    """

    what: str
    mark: str
    names: tuple[str, ...]


def check(folder: str | os.PathLike, kind: Kind) -> None:
    """Checks that `folder` can be written, and is new, empty or of this kind.

    Raises:
      UserError: if it is a file, has other contents or cannot be written.
    """
    _check_kind(folder, kind)
    files.check_folder(folder, f"The {kind.what}")


def _check_kind(folder: str | os.PathLike, kind: Kind) -> None:
    what = f"The {kind.what}"
    folder = paths.local(folder, what)
    # Unlike pathlib, `os.path` reports a name that is too long as missing.
    is_folder = os.path.isdir(folder)
    if os.path.exists(folder) and not is_folder:
        raise UserError(f"{what} is a folder, but {folder} is a file.")
    if not is_folder or find(folder, kind.mark).is_file():
        return
    if any(not _is_ours(path) for path in folder.iterdir()):
        raise UserError(
            f"{folder} has contents other than the {kind.what}'s files; choose "
            "another folder, or empty this one."
        )


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
      kind: of the folder.
      writer: called with the path of an empty folder; writes files and folders
        of the kind's names there.
      rescue: whether to save the files elsewhere if the folder cannot be
        written; if so, `writer` may be called again.

    Raises:
      UserError: if the folder has other contents or cannot be written; names
        the folder where the files were saved instead, if any.
    """
    # `check` has tested the folder; if it is full by now, rescue the files.
    _check_kind(folder, kind)
    try:
        target = files.resolve(folder)
        with files.made(target):
            finish(target, kind)
            with _draft(target) as draft:
                writer(draft)
                _switch(target, draft)
            finish(target, kind)
    except OSError as error:
        kept = None
        if rescue:

            def fill(place: pathlib.Path) -> None:
                place.mkdir()
                writer(place)

            kept = files.rescue(pathlib.Path(folder).name, fill)
        raise files.unwritable(f"The {kind.what}", folder, error, kept) from (
            error
        )


def find(folder: str | os.PathLike, name: str) -> pathlib.Path:
    """Returns the path of a file of the latest generation."""
    folder = pathlib.Path(folder)
    generation = _pointed(folder)
    if generation is not None and (generation / name).exists():
        return generation / name
    return folder / name


def finish(folder: pathlib.Path, kind: Kind) -> None:
    """Moves the current generation's files into place; removes the others."""
    generation = _pointed(folder)
    if generation is not None:
        pointer = json.loads((folder / _POINTER).read_text(encoding="utf-8"))
        for name in kind.names:
            if name not in pointer["names"]:
                _remove(folder / name)
            elif (generation / name).exists():
                if not (generation / name).is_file():
                    _remove(folder / name)
                os.replace(generation / name, folder / name)
        (folder / _POINTER).unlink()
    for left in folder.glob(f"{_GENERATION}*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left)


@contextlib.contextmanager
def _draft(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the folder of a new generation; removes it if the block raises."""
    draft = folder / f"{_GENERATION}{secrets.token_hex(6)}"
    draft.mkdir()
    try:
        with _locked(draft):
            yield draft
    except BaseException:
        if _pointed(folder) != draft:
            shutil.rmtree(draft, ignore_errors=True)
        raise


def _switch(folder: pathlib.Path, draft: pathlib.Path) -> None:
    for path in draft.rglob("*"):
        if path.is_file():
            files.settle(path)
    names = sorted(path.name for path in draft.iterdir())
    pointer = {"generation": draft.name, "names": names}
    files.write_text(folder / _POINTER, json.dumps(pointer) + "\n")


def _pointed(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder named by the pointer file; None without one."""
    try:
        pointer = json.loads((folder / _POINTER).read_text(encoding="utf-8"))
        return folder / pointer["generation"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / _POINTER} is damaged ({error}); remove it, and create "
            f"{folder} again."
        ) from error


def _is_ours(path: pathlib.Path) -> bool:
    """Returns whether an entry is a leftover of a killed writer."""
    return path.name.startswith((_GENERATION, _POINTER, f".{_POINTER}"))


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
