"""Crop boxes in the columns x1, y1, x2 and y2 of a table.

Boxes are in pixels of the upright image, from its upper left corner. They
become part of the image's name, as in `photo.jpg#box=10,20,300,400`, so that
two boxes of a file are two images wherever images are compared by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mixer_jax.runtime.tabular import addresses, references

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("x1", "y1", "x2", "y2")
_LIMIT = 999_999_999  # pixels; names have nine digits at most


class Check(NamedTuple):
    """A rule for boxes; no row without `COLUMNS` breaks it.

    Attributes:
      column: the column named in the message.
      message: what is wrong; {value} stands for the cell.
      broken: maps a frame of strings to bool `[N]`.
    """

    column: str
    message: str
    broken: Callable[[pd.DataFrame], np.ndarray]


def join(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns valid rows without `COLUMNS`, but with boxes in image names.

    The names of images at addresses become those of files, see `addresses`.
    Numbers are rounded outwards to whole pixels, and negative ones become 0.
    """
    boxed = _filled(rows).all(1)
    short = rows.drop(columns=list(COLUMNS))
    short["image"] = addresses.localize(rows["image"])
    if not boxed.any():
        return short
    corners = _numbers(rows[boxed])
    corners[:, :2] = np.floor(corners[:, :2])
    corners = np.ceil(corners).clip(0, _LIMIT).astype(np.int64)
    boxes = [references.box_suffix(*box) for box in corners.tolist()]
    names = short["image"].to_numpy(object, copy=True)
    names[boxed] += np.array(boxes, object)
    short["image"] = names
    return short.astype({"image": rows["image"].dtype})


def _filled(rows: pd.DataFrame) -> np.ndarray:
    """Returns which cells of the boxes are not empty, bool `[N, 4]`."""
    if COLUMNS[0] not in rows:
        return np.zeros((len(rows), len(COLUMNS)), bool)
    cells = [(rows[name] != "").to_numpy(bool) for name in COLUMNS]
    return np.stack(cells, axis=1)


def _numbers(rows: pd.DataFrame) -> np.ndarray:
    """Returns the cells as numbers, float64 `[N, 4]`; NaN for other cells."""
    import pandas as pd

    cells = [pd.to_numeric(rows[a], errors="coerce") for a in COLUMNS]
    return np.stack([cell.to_numpy(np.float64) for cell in cells], axis=1)


def _is_partial(rows: pd.DataFrame) -> np.ndarray:
    filled = _filled(rows)
    return filled.any(1) & ~filled.all(1)


def _is_no_number(place: int, rows: pd.DataFrame) -> np.ndarray:
    filled = _filled(rows)[:, place]
    broken = np.zeros(len(rows), bool)
    if filled.any():
        broken[filled] = ~np.isfinite(_numbers(rows[filled])[:, place])
    return broken


def _is_empty(place: int, rows: pd.DataFrame) -> np.ndarray:
    filled = _filled(rows).all(1)
    broken = np.zeros(len(rows), bool)
    if filled.any():
        corners = _numbers(rows[filled])
        begin, end = corners[:, place], corners[:, place + 2]
        broken[filled] = (end <= begin) | (end <= 0)
    return broken


def _lacks_image(rows: pd.DataFrame) -> np.ndarray:
    names = rows["image"]
    filled = _filled(rows).any(1)
    if not filled.any():
        return filled
    return filled & ((names == "") | references.have_box(names)).to_numpy(bool)


def _is_empty_in_name(rows: pd.DataFrame) -> np.ndarray:
    broken = references.have_box(rows["image"]).to_numpy(bool, copy=True)
    for row in np.flatnonzero(broken):
        box = references.split(rows["image"].iloc[row])[1]
        x1, y1, x2, y2 = map(int, box.split(","))
        broken[row] = x2 <= x1 or y2 <= y1
    return broken


CHECKS = (
    Check(
        "x1",
        "a crop box needs all of x1, y1, x2 and y2; fill all four cells, or "
        "none",
        _is_partial,
    ),
    *(
        Check(
            name,
            "{value} is not a number of pixels",
            functools.partial(_is_no_number, place),
        )
        for place, name in enumerate(COLUMNS)
    ),
    *(
        Check(
            f"{axis}2",
            f"a crop box must have {axis}1 < {axis}2 and 0 < {axis}2, but "
            f"{axis}2 is {{value}}",
            functools.partial(_is_empty, place),
        )
        for place, axis in enumerate("xy")
    ),
    Check(
        "image",
        "the crop box in {value} must be #box=x1,y1,x2,y2 with x1 < x2 and "
        "y1 < y2",
        _is_empty_in_name,
    ),
    Check(
        "image",
        "a crop box needs an image without a box of its own, not {value}",
        _lacks_image,
    ),
)
