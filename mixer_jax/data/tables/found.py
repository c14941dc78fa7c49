"""Sample table of found categories, and checks of its rows."""

import os

import pandas as pd

from mixer_jax.categories import identities, tables
from mixer_jax.data.tables import rules, table
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import quoted


def with_test_rows(
    rows: pd.DataFrame,
    truth: pd.DataFrame | None,
    folder: str | os.PathLike,
) -> pd.DataFrame:
    """Returns the training rows, followed by the test rows of a truth table.

    Args:
      rows: training rows of the found categories.
      truth: a sample table of true categories, as returned by
        `table.read_table`, or None. If its splits have parts, so do those of
        the result.
      folder: the folder of the new table.

    Raises:
      UserError: if the truth has no test row, or an image outside `folder`.
    """
    if truth is None or truth["split"].str.contains("/").any():
        rows = table.with_both_directions(rows)
    if truth is None:
        return rows
    test = table.select(truth, "test")
    return tables.with_moved(rows, test, truth.attrs["table"], folder)


def check(
    samples: pd.DataFrame,
    truth: pd.DataFrame | None,
    folder: str | os.PathLike,
) -> None:
    """Checks, before categories are found, that their table would be valid.

    Args:
      samples: all samples of a log, with image paths relative to `folder`. With
        a truth, rows that the column held_out marks are ignored.
      truth: see `with_test_rows`.
      folder: see `with_test_rows`.

    Raises:
      UserError: names the first row that breaks a rule. Also raised if no
        training sample is left, or if the truth has no test row or a test
        category named like a found one.
    """
    if truth is not None:
        identities.check_others(table.select(truth, "test"))
        samples = samples[~samples["held_out"]]
    samples = samples[["sample_id", "role", "image", "text", "group"]]
    rows = samples.assign(category_id=identities.name(0), split="train")
    if rows.empty:
        raise UserError(
            f"All samples of the log are of the split test in "
            f"{truth.attrs['table']}, so none is left to train on."
        )
    whole = with_test_rows(rows, truth, folder)
    for fault in rules.faults(whole):
        name = quoted(whole["sample_id"].iloc[fault.row])
        raise UserError(fault.said(f"The sample {name} of the found table"))
