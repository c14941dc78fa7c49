"""A contact sheet of emoji: one row per emoji, one column per set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from mixer_jax.data.images import decoding
from mixer_jax.runtime import files

_CELL = 64  # pixels
_MARGIN = 4  # pixels between drawings
_HEADER = 16  # height of the column names in pixels
_LABEL = 180  # width of the row names in pixels


def write(
    path: Path,
    drawings: pd.DataFrame,
    keys: Sequence[str],
    names: Sequence[str],
) -> None:
    """Writes a contact sheet as a PNG file.

    Args:
      path: the file, next to the drawings' folder.
      drawings: one row per drawing, with `set`, `key` and `image`.
      keys: the emoji in the order of rows.
      names: the row names.
    """
    columns = list(dict.fromkeys(drawings["set"]))
    step = _CELL + _MARGIN
    width = _LABEL + step * len(columns)
    sheet = Image.new("RGB", (width, _HEADER + step * len(keys)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        # Long names would overlap the next column.
        pen.text((_LABEL + step * column, 2), _short(name), fill="black")
    for row, (key, name) in enumerate(zip(keys, names, strict=True)):
        corner = (2, _HEADER + step * row + _CELL // 3)
        label = f"{key[:28]}\n{name[:28]}".encode("ascii", "replace").decode()
        pen.multiline_text(corner, label, fill="black")
    shown = drawings[drawings["key"].isin(set(keys))]
    rows = {key: row for row, key in enumerate(keys)}
    for one in shown.itertuples():
        left = _LABEL + step * columns.index(one.set)
        sheet.paste(
            _read(path.parent / one.image),
            (left, _HEADER + step * rows[one.key]),
        )
    files.write(path, lambda draft: sheet.save(draft, "png"))


def _read(path: Path) -> Image.Image:
    pixels: np.ndarray = decoding.decode(path, _CELL)
    return Image.fromarray(pixels)


def _short(name: str) -> str:
    """Returns the part of a set's name that fits: "fluent-emoji-flat" ends."""
    return name if len(name) <= 11 else f"..{name[-9:]}"
