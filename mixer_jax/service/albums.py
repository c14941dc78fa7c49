"""Finds the pictures of a folder, as items of an index."""

import collections
import pathlib
import re

import pandas as pd

from mixer_jax.data.readers import folders, walk
from mixer_jax.data.readers.rows import LeftOut, left_out_text
from mixer_jax.data.tables import rules
from mixer_jax.runtime import identity, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import sources

_OUTSIDE = re.compile(rules.OUTSIDE)


def open_source(
    folder: pathlib.Path, root: pathlib.Path | None = None
) -> sources.Source:
    """Returns a source with one item per picture in a folder.

    The item's ID is the picture's path in `root`, and its category is the
    subfolder. It has no text and no values of fields.

    Args:
      folder: a folder; its subfolders are searched too.
      root: the folder of all pictures of the index; by default `folder`.

    Raises:
      UserError: if there are no pictures, or `folder` is outside `root`.
    """
    start = _inside(folder, root or folder)
    left_out: LeftOut = collections.Counter()
    names = []
    for parts, files in walk.walk(folder, left_out):
        for name in files:
            path = "/".join((*start, *parts, name))
            if pathlib.Path(name).suffix.lower() not in folders.SUFFIXES:
                left_out["files that are not images"] += 1
            elif not walk.is_utf8(path) or _OUTSIDE.search(path):
                left_out["with a path that an index cannot store"] += 1
            else:
                names.append(path)
    if not names:
        found = f" Left out: {left_out_text(left_out)}." if left_out else ""
        raise UserError(f"There are no pictures in {folder}.{found}")
    columns = dict.fromkeys(sources.COLUMNS, "")
    frame = pd.DataFrame(columns, index=range(len(names)), dtype=str)
    frame[sources.ID] = frame[sources.ITEM] = frame["image"] = names
    frame["category_id"] = [name.rpartition("/")[0] for name in names]
    key = identity.hash_texts(frame[sources.ID])
    if left_out:
        terminal.say(f"Left out: {left_out_text(left_out)}.")
    return sources.Source(
        folder, root or folder, len(frame), key, {}, frame=frame, is_album=True
    )


def _inside(folder: pathlib.Path, root: pathlib.Path) -> tuple[str, ...]:
    """Returns the names that lead from one folder to another in it."""
    try:
        return folder.resolve().relative_to(root.resolve()).parts
    except ValueError:
        # Its pictures could have the same IDs as those of other folders.
        raise UserError(
            f"The folder {folder} is outside {root}, the folder of the index's "
            "pictures; move it there, or list its pictures in a table "
            "(--table)."
        ) from None
