"""Confines the images of a sample table to given folders."""

import functools
import os
from collections.abc import Callable

import numpy as np
import pandas as pd

from mixer_jax.data.tables.rules import Rule
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references
from mixer_jax.runtime.text import listing

HELP = (
    "folders, separated by commas, that may hold images besides the table's "
    "folder (default: any)"
)

_FOLDERS = 1 << 16  # maximum number of cached real paths


def rules(folder: str | os.PathLike, image_roots: str) -> tuple[Rule, ...]:
    """Returns a rule that confines images to the table's folder and given ones.

    Symbolic links are followed, including those in the folders' paths.

    Args:
      folder: the folder of the table.
      image_roots: the other folders, separated by commas; "" for no rule.
    """
    given = [root for root in image_roots.split(",") if root]
    if not image_roots:
        return ()
    if not given:
        raise UserError(
            f"The image roots {image_roots!r} name no folder; give one or more "
            "folders, separated by commas."
        )
    named = listing([os.path.abspath(root) for root in given])
    named = named.replace("{", "{{").replace("}", "}}")  # a format string
    message = (
        "the image {value} is, or links to, a file outside the table's folder "
        f"and the image roots, {named}; move the image there, remove the row, "
        "or name the folder of the file in --image-roots (in a config, "
        "data.image_roots)"
    )
    return (Rule("image", message, _outside(os.fspath(folder), given)),)


def _outside(
    folder: str, image_roots: list[str]
) -> Callable[[pd.DataFrame], np.ndarray]:
    roots = tuple(
        os.path.join(os.path.realpath(root), "")
        for root in (folder or os.curdir, *image_roots)
    )
    real_path = functools.lru_cache(_FOLDERS)(os.path.realpath)

    def is_outside(name: str) -> bool:
        if not name:
            return False
        if "\0" in name:
            return True  # File names cannot contain NUL.
        path = os.path.join(folder, references.file_of(name))
        parent, file = os.path.split(path)
        # Resolving whole paths would take several times as long.
        real = os.path.join(real_path(parent), file)
        if os.path.islink(real):
            real = os.path.realpath(real)
        return not real.startswith(roots)

    def broken(rows: pd.DataFrame) -> np.ndarray:
        codes, names = pd.factorize(rows["image"])
        return np.array([is_outside(name) for name in names], bool)[codes]

    return broken
