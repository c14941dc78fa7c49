"""Contact sheets of the categories that look most wrong."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.reports import sheets

SHOWN = 12  # pictures of one category


class Picture(NamedTuple):
    """One sample of a category."""

    image: str  # data URI; "" is no image
    name: str  # its text, or its ID
    query: bool
    right: bool | None  # of the leading true category; None is unknown


class Sheet(NamedTuple):
    """One category: what is said of it, and its samples."""

    category: str  # ID
    said: tuple[str, ...]
    pictures: tuple[Picture, ...]
    more: int  # samples that are not shown


class Purity(NamedTuple):
    """Which true category leads each found one."""

    leading: pd.Series  # label -> true category
    share: pd.Series  # label -> share of its known samples that are of it


def purity(labels: np.ndarray, truth: np.ndarray) -> Purity:
    """Measures each category of `[N]` labels against the truth.

    Args:
      labels: int, negative for no category.
      truth: true categories, "" where unknown; those are not counted.
    """
    known = (labels >= 0) & (truth != "")
    frame = pd.DataFrame({"label": labels[known], "truth": truth[known]})
    counts = frame.value_counts(["label", "truth"], sort=False).reset_index()
    counts = counts.sort_values(
        ["label", "count", "truth"], ascending=[True, False, True]
    )
    leading = counts.drop_duplicates("label").set_index("label")
    total = counts.groupby("label")["count"].sum()
    return Purity(leading["truth"], leading["count"] / total)


def choose(score: pd.Series, sizes: np.ndarray, count: int = 20) -> list[int]:
    """Returns the labels of the lowest scores, the larger one first if equal.

    Args:
      score: label -> score; those that are not finite are left out.
      sizes: `[C]`, samples of each category.
      count: how many at most.
    """
    labels = score.index[np.isfinite(score)].to_numpy()
    order = np.lexsort((labels, -sizes[labels], score[labels]))
    return labels[order][:count].tolist()


def make(
    label: int,
    category: str,
    said: tuple[str, ...],
    samples: pd.DataFrame,
    labels: np.ndarray,
    leading: str | None = None,
    shrink: Callable[[pathlib.Path], str] = sheets.thumbnail,
) -> Sheet:
    """Makes the contact sheet of a category.

    Args:
      label: which one.
      category: its ID.
      said: what is said of it.
      samples: `[N]` rows with sample_id, role, image (absolute), text and,
        for `leading`, truth.
      labels: `[N]` int.
      leading: the true category that leads it; None marks nothing.
      shrink: image file -> data URI.
    """
    members = samples[labels == label]
    pictures = []
    for row in members.head(SHOWN).itertuples():
        right = None
        if leading is not None and row.truth != "":
            right = row.truth == leading
        pictures.append(
            Picture(
                shrink(pathlib.Path(row.image)) if row.image else "",
                row.text or row.sample_id,
                row.role == table.QUERY,
                right,
            )
        )
    return Sheet(category, said, tuple(pictures), max(0, len(members) - SHOWN))
