"""Contact sheets of the categories with the lowest scores."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.reports import sheets

SHOWN = 12  # maximum number of pictures per category


class Picture(NamedTuple):
    """One sample of a category."""

    image: str  # data URI; "" for none
    name: str  # text of the sample, or its ID
    query: bool
    right: bool | None  # whether in the leading category; None if unknown


class Sheet(NamedTuple):
    """One category: its description and its samples."""

    category: str  # ID of the category
    details: tuple[str, ...]  # description of the category
    pictures: tuple[Picture, ...]
    more: int  # number of samples not shown


class Purity(NamedTuple):
    """The leading true category of each category found, and its share."""

    leading: pd.Series  # label -> true category
    share: pd.Series  # label -> share of the leading category


def purity(labels: np.ndarray, truth: np.ndarray) -> Purity:
    """Returns the purity of each found category.

    Args:
      labels: int `[N]`, found categories; negative for none.
      truth: str `[N]`, true categories; "" for unknown ones, which are not
        counted.
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
    """Returns the labels with the lowest scores; ties go to larger categories.

    Args:
      score: label -> score; non-finite scores are left out.
      sizes: `[C]`, the number of samples of each category.
      count: the maximum number of labels.
    """
    labels = score.index[np.isfinite(score)].to_numpy()
    order = np.lexsort((labels, -sizes[labels], score[labels]))
    return labels[order][:count].tolist()


def make(
    label: int,
    category: str,
    details: tuple[str, ...],
    samples: pd.DataFrame,
    labels: np.ndarray,
    leading: str | None = None,
    shrink: Callable[[pathlib.Path], str] = sheets.thumbnail,
) -> Sheet:
    """Returns the contact sheet of a category.

    Args:
      label: the label of the category.
      category: its ID.
      details: its description, shown beside the ID.
      samples: `[N]` rows with sample_id, role, image (absolute), text and,
        for `leading`, truth.
      labels: `[N]` int.
      leading: its leading true category; None to mark no sample as right.
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
    return Sheet(
        category, details, tuple(pictures), max(0, len(members) - SHOWN)
    )
