"""Converts found categories into rows of a sample table."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mixer_jax.categories.click_log import ClickLog, home
from mixer_jax.runtime import similar
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted


def catalog(log: ClickLog) -> pd.DataFrame:
    """Returns all samples of a log in clustering order: queries first.

    Returns:
      Columns sample_id, role, image (absolute or ""), text, group ("").
    """
    images = [*log.queries["image"], *log.items["image"]]
    return pd.DataFrame(
        {
            "sample_id": [*log.queries["query_id"], *log.items["item_id"]],
            "role": ["query"] * len(log.queries)
            + ["document"] * len(log.items),
            # Use dtype object, as a folder name may not be valid UTF-8.
            "image": pd.Series(images, dtype=object),
            "text": [""] * len(log.queries) + [*log.items["text"]],
            "group": "",
        }
    )


def with_truth(samples: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Adds true categories from a sample table; clustering never reads them.

    Args:
      samples: rows of `catalog`.
      truth: columns sample_id, category_id and split.

    Returns:
      The samples with the columns truth ("" if unknown) and held_out (bool:
      whether the sample's true split is test).

    Raises:
      UserError: if the table has none of the samples, or misspells an ID.
    """
    known = truth.set_index("sample_id")
    row = known.index.get_indexer(samples["sample_id"])
    if (row < 0).all():
        raise UserError(
            "The table of true categories contains none of the click log's "
            f"samples, such as {quoted(samples['sample_id'].iloc[0])}; the "
            "IDs must be the same in both."
        )
    check_spelling(
        samples["sample_id"], known.index, "the table of true categories"
    )
    split = known["split"].str.split("/").str[0].to_numpy()
    category = known["category_id"].to_numpy()
    return samples.assign(
        truth=np.where(row < 0, "", category[row]),
        held_out=(row >= 0) & (split[row] == "test"),
    )


def check_spelling(
    sample_ids: Iterable[str], known: Iterable[str], table: str
) -> None:
    """Raises a `UserError` if a table spells a log's sample ID differently."""
    wrong = similar.misspelled(list(sample_ids), list(known))
    if wrong:
        # Without this error, its row would silently count as another sample.
        name, hint = wrong
        raise UserError(
            f"The sample {quoted(name)} of the click log is not in {table}"
            f"{hint}."
        )


def found_rows(
    samples: pd.DataFrame, labels: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns training rows of the found categories, and unassigned samples.

    Args:
      samples: N rows of `catalog`, or of `with_truth`, whose held-out samples
        are left out.
      labels: `[N]` int, -1 is noise.

    Returns:
      `(rows, unassigned)`: samples with a category_id such as "found-00000" and
      split "train", at least two per category; and the other samples, with the
      column reason.

    Raises:
      UserError: if no category has two samples.
    """
    default = pd.Series(False, index=samples.index)
    held_out = samples.get("held_out", default).to_numpy()
    ours = np.where(held_out, -1, labels)
    size = np.bincount(ours[ours >= 0], minlength=1)
    several = (ours >= 0) & (size[ours] > 1)
    if not several.any():
        raise UserError(
            "No categories were found: no two samples are linked by clicks or "
            "content. A log with more searches may help."
        )
    samples = samples[["sample_id", "role", "image", "text", "group"]]
    rows = samples[several].assign(
        category_id=[f"found-{label:05d}" for label in ours[several]],
        split="train",
    )
    left = ~several & ~held_out
    reason = np.where(labels < 0, "no sure match", "its match is held out")
    return rows, samples[left].assign(reason=reason[left])


def with_moved(
    rows: pd.DataFrame,
    more: pd.DataFrame,
    table: str | Path,
    folder: str | Path,
) -> pd.DataFrame:
    """Appends rows of another table to those of a table in `folder`.

    Args:
      rows: rows with image paths relative to `folder`.
      more: rows of `table`, with image paths relative to its own folder.
      table: the path of the other table.
      folder: the folder of the resulting table.

    Raises:
      UserError: if an image lies outside `folder`.
    """
    place = home(table)
    images = [str(place / image) if image else "" for image in more["image"]]
    paths = pd.Series(images, more.index, dtype=object)
    return pd.concat([rows, relative_to(more.assign(image=paths), folder)])


def relative_to(frame: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """Makes image paths relative to the folder of the table.

    Raises:
      UserError: if an image lies outside this folder, which tables do not
        allow, or if its path is not UTF-8.
    """
    folder = Path(folder).resolve()
    inside = [
        _path_to(image, folder) if image else "" for image in frame["image"]
    ]
    there = [os.path.abspath(image) for image in frame["image"] if image]
    outside = [path for path in inside if _leaves(path)]
    if outside:
        raise UserError(
            f"The image {os.path.normpath(folder / outside[0])} is not inside "
            f"{folder}, but the written table refers to images inside its own "
            "folder, so that both can be moved; choose a folder that contains "
            "the images, such as "
            f"--out={os.path.commonpath(map(os.path.dirname, there))}."
        )
    if bad := next(filter(_is_not_text, inside), ""):
        raise UserError(
            f"The path of the image {bad!a} in {folder} is not UTF-8, which a "
            "sample table requires; rename the folder or the file."
        )
    return frame.assign(image=[Path(p).as_posix() if p else "" for p in inside])


def _is_not_text(path: str) -> bool:
    return os.fsencode(path).decode(errors="replace") != path


def _path_to(image: str, folder: Path) -> str:
    # Keep symbolic links if the path itself is inside the folder; otherwise
    # resolve them, because the path may name the folder differently.
    path = os.path.relpath(os.path.normpath(image), folder)
    if _leaves(path):
        real = os.path.relpath(os.path.realpath(image), folder)
        path = path if _leaves(real) else real
    return path


def _leaves(path: str) -> bool:
    return path.split(os.sep)[0] == os.pardir
