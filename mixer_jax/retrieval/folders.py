"""Folders of several files that change from one generation to the next whole.

A new generation is written into a hidden folder inside the destination, which
may therefore be a symbolic link or a mount point. A pointer file, which appears
in one step, switches to it; then its files move to their places, and those of
the generation before are removed. A process that is killed before the switch
has changed nothing, and after it, readers find the new files where the pointer
says; the next writer finishes the moves.
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
    """A kind of such folders.

    Attributes:
      what: its name in a sentence, "index" or "export".
      mark: the file that tells the kind.
      names: of everything that one may hold, the mark among them.
    """

    what: str
    mark: str
    names: tuple[str, ...]


def check(folder: str | os.PathLike, kind: Kind) -> None:
    """Checks that `folder` can be written, and is new, empty or of this kind.

    Raises:
      UserError: if it is a file, holds other things or cannot be written.
    """
    _check_kind(folder, kind)
    files.check_folder(folder, f"An {kind.what}")


def _check_kind(folder: str | os.PathLike, kind: Kind) -> None:
    what = f"An {kind.what}"
    folder = paths.local(folder, what)
    # Of a name that no folder can have, `os.path` says that there is none.
    is_folder = os.path.isdir(folder)
    if os.path.exists(folder) and not is_folder:
        raise UserError(f"{what} is a folder, but {folder} is a file.")
    if not is_folder or find(folder, kind.mark).is_file():
        return
    if any(not _is_ours(path) for path in folder.iterdir()):
        raise UserError(
            f"{folder} holds other things than an {kind.what}; choose another "
            "folder, or empty this one."
        )


def write(
    folder: str | os.PathLike,
    kind: Kind,
    writer: files.Writer,
    *,
    rescue: bool = False,
) -> None:
    """Writes a new generation of a folder, whole or not at all.

    Args:
      folder: see `check`.
      kind: of the folder.
      writer: writes files and folders of the kind's names into the empty
        folder whose path it is given.
      rescue: whether what cannot be written there is worth keeping elsewhere;
        then `writer` may be called again.

    Raises:
      UserError: if it holds other things or cannot be written; then names the
        folder that has the files instead, if they were rescued.
    """
    # It was tried before; if it is full by now, what was made can be rescued.
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
    """Returns where a file of the latest generation is."""
    folder = pathlib.Path(folder)
    generation = _pointed(folder)
    if generation is not None and (generation / name).exists():
        return generation / name
    return folder / name


def finish(folder: pathlib.Path, kind: Kind) -> None:
    """Moves a generation that was switched to in place; removes the others."""
    generation = _pointed(folder)
    if generation is not None:
        said = json.loads((folder / _POINTER).read_text(encoding="utf-8"))
        for name in kind.names:
            if name not in said["names"]:
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
    """Makes the folder of a new generation, removed if the block raises."""
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
    said = {"generation": draft.name, "names": names}
    files.write_text(folder / _POINTER, json.dumps(said) + "\n")


def _pointed(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder that a pointer names, None without one."""
    try:
        said = json.loads((folder / _POINTER).read_text(encoding="utf-8"))
        return folder / said["generation"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / _POINTER} is damaged ({error}); remove it, and make "
            f"what is in {folder} again."
        ) from error


def _is_ours(path: pathlib.Path) -> bool:
    """Returns whether an entry is one that this module leaves when killed."""
    return path.name.startswith((_GENERATION, _POINTER, f".{_POINTER}"))


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder's lock; raises `OSError` if another process does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
