"""Builds the sample table of found categories from its inputs."""

import os
import pathlib
from typing import Any, NamedTuple

import pandas as pd

from mixer_jax.categories import click_log, find, identities, tables
from mixer_jax.categories.quality import against_truth
from mixer_jax.data.tables import rules, table
from mixer_jax.runtime import files, results
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import guards, replacing
from mixer_jax.runtime.tabular.tables import writer
from mixer_jax.runtime.text import quoted

FOUND, UNASSIGNED = "found.csv", "unassigned.csv"
QUALITY, FEATURES = "categories.json", "features.npz"


class Sources(NamedTuple):
    """Inputs of the sample table of found categories.

    Attributes:
      log: the click log.
      samples: the log's samples, with image paths relative to the new table,
        and with the columns truth and held_out if there is a truth table.
      truth: the sample table of true categories, or None.
      previous: the earlier categories, whose IDs are kept.
    """

    log: click_log.ClickLog
    samples: pd.DataFrame
    truth: pd.DataFrame | None
    previous: identities.Previous


def check_out(folder: str | os.PathLike, truth: str | None) -> None:
    """Checks that the files can be written to a folder.

    Args:
      folder: the folder of the new table.
      truth: the path of a table that must not be replaced, or None.

    Raises:
      UserError: if the folder cannot be written, or holds a training run.
    """
    names = (FOUND, UNASSIGNED, QUALITY, FEATURES, identities.LEDGER)
    files.check_folder(folder, "The categories", names)
    against_truth.check_out(folder)
    replacing.check_inputs(
        [pathlib.Path(folder, name) for name in names], [("--truth", truth)]
    )


def read_sources(
    log: str | os.PathLike,
    folder: str | os.PathLike,
    truth: str | None = None,
    previous: str | None = None,
) -> Sources:
    """Reads all inputs, and checks the rows that will be written.

    Args:
      log: the folder of the click log.
      folder: the folder of the new table.
      truth: the path of a sample table of true categories, or None.
      previous: the path of an earlier table of found categories, or None.

    Raises:
      UserError: if a table is invalid, or `check` fails.
    """
    earlier = identities.read_previous(previous)
    clicks = click_log.read_folder(log)
    known = table.read_table(truth) if truth else None
    samples = tables.relative_to(tables.catalog(clicks), folder)
    if known is not None:
        samples = tables.with_truth(samples, known)
    identities.check_log(earlier, samples["sample_id"])
    check(samples, known, folder)
    return Sources(clicks, samples, known, earlier)


def write(
    folder: str | os.PathLike,
    sources: Sources,
    kept: pd.DataFrame,
    found: find.Found,
) -> tuple[dict[str, Any], identities.Changes]:
    """Writes the tables and the report; readers see all of them or none.

    Args:
      folder: the folder of the new table.
      sources: see `read_sources`.
      kept: the rows of `sources.samples` that have a category.
      found: the categories of these samples.

    Returns:
      The figures of `against_truth.report`, and the changes to the IDs.

    Raises:
      UserError: if a file cannot be written; see `results.deliver_all`.
    """
    out = pathlib.Path(folder)
    rows, left = tables.found_rows(kept, found.combined)
    rows, changes = identities.rename(rows, left, sources.previous)
    rows = with_test_rows(rows, sources.truth, out)
    is_query = (kept["role"] == "query").to_numpy()
    figures = against_truth.report(found, is_query, kept.get("truth"))
    writers = {
        FOUND: table.writer(rows, out / FOUND),
        UNASSIGNED: writer(left, out / UNASSIGNED),
        QUALITY: against_truth.writer(figures),
        identities.LEDGER: changes.writer(),
    }
    with guards.locked(out):
        results.deliver_all(out, writers, "The categories")
    return figures, changes


def with_test_rows(
    rows: pd.DataFrame,
    truth: pd.DataFrame | None,
    folder: str | os.PathLike,
) -> pd.DataFrame:
    """Returns the training rows, followed by the test rows of a truth table.

    Args:
      rows: training rows of the found categories.
      truth: a sample table of true categories, as returned by
        `table.read_table`, or None. If its splits have parts, the splits
        of the result have parts, too.
      folder: the folder of the new table.

    Raises:
      UserError: if the truth table has no test row, or has an image outside
        `folder`.
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
    """Checks that the table will be valid, before categories are found.

    Args:
      samples: all samples of a log, with image paths relative to `folder`. With
        a truth table, rows marked in the column held_out are ignored.
      truth: see `with_test_rows`.
      folder: see `with_test_rows`.

    Raises:
      UserError: names the first row that breaks a rule. Also raised if no
        training sample is left, or if the truth table has no test row or has a
        test category with the name of a found category.
    """
    if truth is not None:
        identities.check_others(table.select(truth, "test"))
        samples = samples[~samples["held_out"]]
    samples = samples[["sample_id", "role", "image", "text", "group"]]
    rows = samples.assign(category_id=identities.name(0), split="train")
    if rows.empty:
        raise UserError(
            f"All samples of the log belong to the test split of "
            f"{truth.attrs['table']}; no training samples remain."
        )
    whole = with_test_rows(rows, truth, folder)
    for fault in rules.faults(whole):
        name = quoted(whole["sample_id"].iloc[fault.row])
        raise UserError(fault.describe(f"Sample {name} of the found table"))
