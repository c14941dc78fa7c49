"""Sources of sample tables, which build a table if it is missing."""

import functools
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from mixer_jax.demo import emoji, emoji_vendors, icons
from mixer_jax.demo.furniture import build as furniture
from mixer_jax.demo.furniture import folds
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import one_line

SOURCES: dict[str, Callable[[Path], object]] = {
    "emoji-medium": functools.partial(emoji.build_table, name="medium"),
    "emoji-large": functools.partial(emoji.build_table, name="large"),
    "emoji-vendors": emoji_vendors.build_table,
    "icons": icons.build_table,
    "icons-unseen": functools.partial(icons.build_table, unseen=True),
    **{
        f"furniture-fold{fold}": functools.partial(
            furniture.build_table, fold=fold
        )
        for fold in range(folds.NUMBER)
    },
}


def ensure_table(data: ConfigDict) -> Path:
    """Returns the path of the run's table; builds it if it is missing.

    Processes that need the same table wait for the first one to build it.

    Args:
      data: the section `data` of a run's config; uses `table` and `source`.

    Raises:
      UserError: if there is neither a table nor a source to build it.
    """
    path = check(data)
    if path.exists():
        return path
    with files.in_turn(path):
        if not path.exists():  # Another process may have built it.
            SOURCES[data.source](path)
    return path


def check(data: ConfigDict) -> Path:
    """Returns the path of the run's table, without building it.

    Raises:
      UserError: if there is neither a table nor a source to build it.
    """
    known = ", ".join(SOURCES)
    if not data.table:
        raise UserError(
            "data.table is empty; set it in the config to the path of a sample "
            "table. To have the table built there, also set data.source to one "
            f"of {known}."
        )
    path = Path(data.table)
    if path.exists():
        return path
    if not data.source:
        raise UserError(
            f"There is no sample table at {one_line(str(path))}. Write one "
            "with the columns that docs/own_data.md describes, or set "
            f"data.source to one of {known} to have it built."
        )
    if data.source not in SOURCES:
        raise UserError(
            f"data.source is {data.source!r}; it must be one of {known}."
        )
    return path
