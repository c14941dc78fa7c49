"""Folders of several files that are written whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from mixer_jax import paths
from mixer_jax.errors import UserError


def check(folder: str | os.PathLike, mark: str, what: str) -> None:
    """Checks that `folder` is new, empty or one of those that are replaced.

    Args:
      folder: to be written.
      mark: the file that tells its kind.
      what: its name in a sentence, "index" or "export".

    Raises:
      UserError: if it is a file or holds other things.
    """
    folder = paths.local(folder, f"An {what}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"An {what} is a folder, but {folder} is a file.")
    if not folder.is_dir() or (folder / mark).is_file():
        return
    if any(folder.iterdir()):
        raise UserError(
            f"{folder} holds other things than an {what}; choose another "
            "folder, or empty this one."
        )


@contextlib.contextmanager
def replacing(
    folder: str | os.PathLike, mark: str, what: str
) -> Iterator[pathlib.Path]:
    """Gives an empty folder that takes `folder`'s place in the end.

    Nothing is left of it, and `folder` is as it was, if the block raises.

    Args:
      folder: see `check`.
      mark: see `check`.
      what: see `check`.

    Raises:
      UserError: if `check` does, or the files cannot be written.
    """
    check(folder, mark, what)
    folder = pathlib.Path(os.path.abspath(folder))
    draft = folder.with_name(f".{folder.name}.draft")
    old = folder.with_name(f".{folder.name}.old")
    try:
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    except OSError as error:
        raise UserError(
            f"The {what} cannot be written to {folder}: "
            f"{error.strerror or error}."
        ) from error
    finally:
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)
