"""Draws a contact sheet of some products, to look at."""

from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

from mixer_jax.data.tables import table
from mixer_jax.data.tables.holdout import digest
from mixer_jax.runtime import files

NAME = "contact_sheet.png"
_PRODUCTS = 48
_SIDE = 96  # of a picture, in pixels
_LINE = 14  # height of a title
_WIDTH = 24  # pictures in a row of the sheet, at most


def write(root: Path, samples: pd.DataFrame, name: str = NAME) -> None:
    """Writes a sheet with the catalog picture and the queries of products.

    Args:
      root: the folder of the pictures.
      samples: rows with `image`, `text`, `role` and `category_id`.
      name: the name of the file.
    """
    keys = sorted(samples["category_id"].unique(), key=_order)[:_PRODUCTS]
    chosen = samples[samples["category_id"].isin(keys)]
    groups = dict(iter(chosen.groupby("category_id", sort=False)))
    most = max(map(len, groups.values()))
    beside = max(1, _WIDTH // most)  # products in a row
    height = _SIDE + _LINE
    rows = -(-len(keys) // beside)
    sheet = Image.new("RGB", (beside * most * _SIDE, rows * height), "white")
    for place, key in enumerate(keys):
        row, column = divmod(place, beside)
        corner = (column * most * _SIDE, row * height)
        _draw(sheet, corner, root, groups[key])
    files.write(root / name, lambda draft: sheet.save(draft, "png"))


def _order(key: str) -> int:
    return digest("contact sheet", key)


def _draw(
    sheet: Image.Image, corner: tuple[int, int], root: Path, rows: pd.DataFrame
) -> None:
    left, top = corner
    # The default font lacks other letters.
    titles = rows["text"][rows["role"] == table.DOCUMENT]
    title = " ".join(titles).encode("latin-1", "replace").decode("latin-1")
    ImageDraw.Draw(sheet).text((left + 2, top + 1), title, "black")
    for place, name in enumerate(rows["image"]):
        with Image.open(root / name) as image:
            small = image.convert("RGB").resize((_SIDE, _SIDE))
        sheet.paste(small, (left + place * _SIDE, top + _LINE))
