"""Reads the results of categorize: the category of each sample.

Labels are indices into `Outcome.names`; samples without a category are
`UNASSIGNED`. Samples of true test categories are `HELD_OUT`: categorize does
not write the categories found for them, so they are excluded from all metrics.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from mixer_jax.categories import click_log as log_lib
from mixer_jax.categories import tables
from mixer_jax.categories.click_log import ClickLog
from mixer_jax.categories.evidence import encoding
from mixer_jax.categories.evidence.graph import Features
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import guards
from mixer_jax.runtime.tabular import tables as table_files
from mixer_jax.runtime.text import quoted

UNASSIGNED, HELD_OUT = -1, -2


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The samples of a log and their categories.

    Attributes:
      log: the samples that categorize could read, and the clicks among them.
      samples: `[Q + I]` rows of `tables.catalog`, queries first; with true
        categories, also the columns of `tables.with_truth`.
      labels: `[Q + I]` int64.
      names: category IDs, indexed by label.
      features: features of these samples; None if the cache has no match.
      later: later clicks, like `log.clicks`; None if none were set aside.
    """

    log: ClickLog
    samples: pd.DataFrame
    labels: np.ndarray
    names: list[str]
    features: Features | None
    later: pd.DataFrame | None

    @property
    def query_labels(self) -> np.ndarray:
        """Labels `[Q]` of the queries."""
        return self.labels[: len(self.log.queries)]

    @property
    def item_labels(self) -> np.ndarray:
        """Labels `[I]` of the items."""
        return self.labels[len(self.log.queries) :]


def read(
    folder: str | Path, log: str | Path, truth: pd.DataFrame | None = None
) -> Outcome:
    """Reads the categories of a log.

    Args:
      folder: the output folder of categorize.
      log: the folder of the click log that categorize read.
      truth: the table of true categories given to categorize, if any.

    Raises:
      UserError: if a file is missing or belongs to another log.
    """
    folder, log = Path(folder), Path(log)
    with guards.steady(log):
        clicks, later = log_lib.read_folder(log), _read_later(log)
    with guards.steady(folder):
        found, left = _found(folder), _left(folder)
    samples = tables.catalog(clicks)
    everyone = set(samples["sample_id"])
    if both := found.keys() & left:
        raise UserError(
            f"The sample {quoted(min(both))} is in both "
            f"{folder / 'found.csv'} and unassigned.csv; run "
            "mixer_jax.categorize again."
        )
    foreign = (found.keys() | left) - everyone
    if foreign:
        raise UserError(
            f"{folder} has a sample {quoted(min(foreign))} that is not in the "
            f"click log {log}; set --log to the log passed to categorize."
        )
    kept = found.keys() | left
    if truth is not None:
        samples = tables.with_truth(samples, truth)
        kept |= set(samples["sample_id"][samples["held_out"]])
    features = encoding.read(folder / "features.npz", clicks)
    if features is not None:
        kept = everyone  # All samples have features: no image was skipped.
    samples = samples[samples["sample_id"].isin(kept)].reset_index(drop=True)
    names = sorted(set(found.values()))
    number = {name: label for label, name in enumerate(names)}
    labels = [
        number[found[sample]]
        if sample in found
        else (UNASSIGNED if sample in left else HELD_OUT)
        for sample in samples["sample_id"]
    ]
    clicks = log_lib.keep(clicks, kept)
    if features is None:
        features = encoding.read(folder / "features.npz", clicks)
    return Outcome(
        clicks,
        samples,
        np.array(labels, np.int64),
        names,
        features,
        None if later is None else log_lib.keep(later, kept).clicks,
    )


def find_log(folder: str | Path) -> Path:
    """Looks for a click log in an output folder; returns the folder of the log.

    Args:
      folder: the output folder of categorize.

    Raises:
      UserError: if there is no log in the folder or in its subfolder `log`.
    """
    folder = Path(folder)
    for place in (folder / "log", folder):
        if table_files.find(place, "clicks"):
            return place
    raise UserError(
        f"There is no click log in {folder} or {folder / 'log'}; set "
        "--log to the log passed to categorize."
    )


def _read_later(log: Path) -> ClickLog | None:
    """Reads the later clicks that aggregate set aside, if any."""
    later = table_files.find(log, "clicks_later")
    if later is None:
        return None
    return log_lib.read_tables(
        table_files.find(log, "queries"), table_files.find(log, "items"), later
    )


def _found(folder: Path) -> dict[str, str]:
    """Returns the found category of each sample that has one."""
    path = folder / "found.csv"
    if not path.is_file():
        raise UserError(
            f"There is no found.csv in {folder}; pass the output "
            "folder of mixer_jax.categorize."
        )
    columns = ("sample_id", "category_id", "split")
    frame = log_lib.read_columns(path, columns)
    # Skip reversed samples and samples from true test categories.
    frame = frame[frame["split"].isin(("train", "train/forward"))]
    for column, bad, problem in (
        (
            "sample_id",
            frame["sample_id"].duplicated(),
            "is already in an earlier row",
        ),
        ("category_id", frame["category_id"] == "", "is empty"),
    ):
        if bad.any():
            at = int(np.argmax(bad.to_numpy()))
            (where,) = table_files.name_records(path, [int(frame.index[at])])
            raise UserError(
                f"{where}, column {column}: {quoted(frame[column].iloc[at])} "
                f"{problem}; restore the table that mixer_jax.categorize wrote."
            )
    if frame.empty:
        raise UserError(
            f"{path} has no rows in the split train; restore the table that "
            "mixer_jax.categorize wrote."
        )
    return dict(zip(frame["sample_id"], frame["category_id"], strict=True))


def _left(folder: Path) -> set[str]:
    """Returns the samples for which no category was found."""
    path = folder / "unassigned.csv"
    if not path.is_file():
        raise UserError(f"{path} is missing; run mixer_jax.categorize again.")
    layout = table_files.Layout(("sample_id",))
    frame = table_files.read(path, layout, allow_empty=True)
    return set(frame["sample_id"])
