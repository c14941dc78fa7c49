"""Keeps category IDs stable from one log to the next.

A category keeps the ID of the old category with which it shares the most
samples: the largest part of a split category keeps the ID, and a merged
category has the ID of its largest part. A new category gets a number that no
category, current or vanished, has ever had.
"""

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.categories.tables import check_spelling
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import tables
from mixer_jax.runtime.text import quoted

LEDGER = "identities.json"  # next to the table whose IDs it records
_ID = re.compile(r"found-([0-9]+)")
_COLUMNS = ("sample_id", "category_id")
_LAYOUT = tables.Layout(_COLUMNS, optional=("split",), ids=_COLUMNS)
_LARGEST = 10**18  # fits in int64, with room for new numbers


def name(number: int) -> str:
    """Returns the category ID with the given number."""
    return f"found-{number:05d}"


@dataclasses.dataclass(frozen=True)
class Previous:
    """Previously assigned IDs.

    Attributes:
      number: sample ID -> number of its category.
      remembered: likewise, for samples that had no category last time.
      highest: the highest number ever assigned; -1 if there is none.
      note: a message about a missing ledger, or "".
    """

    number: dict[str, int] = dataclasses.field(default_factory=dict)
    remembered: dict[str, int] = dataclasses.field(default_factory=dict)
    highest: int = -1
    note: str = ""


def read_previous(path: str | Path | None) -> Previous:
    """Reads the IDs in a table of found categories and in its ledger.

    Args:
      path: path of the table; None if there are no previous categories.

    Raises:
      UserError: if the table has no found categories, a number is too large, a
        sample has two categories, or the ledger is damaged.
    """
    if path is None:
        return Previous()
    path = Path(path)
    frame = tables.read(path, _LAYOUT)
    number = frame["category_id"].str.extract(rf"^{_ID.pattern}\Z")[0]
    # Reversed rows repeat the samples, and test rows have true categories. The
    # samples of the log itself may also have IDs that start with "reverse:".
    turned = frame["sample_id"].str.startswith("reverse:")
    turned &= frame["split"].isin(("", "train/reverse"))
    ours = number.notna() & ~turned
    if not ours.any():
        raise UserError(
            f"{path} has no category ID like {name(0)}; --previous must be a "
            "found.csv written by this command."
        )
    known = _numbers(path, frame["sample_id"][ours], number[ours])
    remembered: dict[str, int] = {}
    highest = max(known.values())
    ledger = path.parent / LEDGER
    note = (
        f"There is no {ledger}, so IDs of categories that vanished earlier may "
        "be reused; keep it in the folder of the --previous table."
    )
    if ledger.is_file():
        note = ""
        try:
            kept = json.loads(ledger.read_text())
            highest = max(highest, int(kept["highest"]))
            for sample, given in kept["remembered"].items():
                if sample not in known:
                    remembered[sample] = int(_ID.fullmatch(given)[1])
            if max(highest, max(remembered.values(), default=0)) > _LARGEST:
                raise ValueError("too large a number")
        except (
            AttributeError,
            LookupError,
            OverflowError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(
                f"{ledger} is not the ledger that this command wrote with "
                f"{path.name}; restore it. If you delete it instead, IDs of "
                "vanished categories may be reused."
            ) from error
    return Previous(known, remembered, highest, note)


def _numbers(
    path: Path, sample_ids: pd.Series, numbers: pd.Series
) -> dict[str, int]:
    """Returns each sample's category number, parsed from its digits."""
    known: dict[str, int] = {}
    given = zip(sample_ids, numbers, strict=True)
    for row, (sample, digits) in zip(sample_ids.index, given, strict=True):
        # int() rejects strings of several thousand digits.
        short = digits.lstrip("0")[: len(str(_LARGEST)) + 1]
        number = int(short or "0")
        if number > _LARGEST:
            problem = (
                f"the category {quoted('found-' + digits)} has too large a "
                f"number (above {_LARGEST})"
            )
        elif known.setdefault(sample, number) != number:
            problem = (
                f"the sample {quoted(sample)} has the category {name(number)}, "
                f"but {name(known[sample])} in an earlier row"
            )
        else:
            continue
        (where,) = tables.name_records(path, [row])
        raise UserError(
            f"{where}, column category_id: {problem}; --previous must be an "
            "unchanged found.csv of this command."
        )
    return known


def check_log(previous: Previous, sample_ids: Iterable[str]) -> None:
    """Raises a `UserError` if a log spells previous sample IDs differently."""
    ours = list(sample_ids)
    # Check only if no ID matches; otherwise, a similar ID may be a new sample.
    if previous.number.keys().isdisjoint(ours):
        check_spelling(ours, previous.number, "the table of --previous")


def check_others(rows: pd.DataFrame) -> None:
    """Rejects categories of another table that are named like found ones.

    Raises:
      UserError: naming the first such row, whose category would be confused
        with a found one.
    """
    alike = rows["category_id"].str.fullmatch(_ID.pattern).to_numpy(bool)
    if alike.any():
        at = int(np.argmax(alike))
        path = rows.attrs.get("table", "")
        (where,) = tables.name_records(path, [int(rows.index[at])])
        raise UserError(
            f"{where}, column category_id: the test category "
            f"{quoted(rows['category_id'].iloc[at])} has a name that is "
            "reserved for found categories; rename it."
        )


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes in the categories since the previous log.

    Attributes:
      kept: number of IDs that existed last time and still exist.
      appeared: IDs of categories without a sample of any old category.
      returned: IDs that were absent last time but existed earlier.
      vanished: IDs whose samples no longer have any category.
      merged: old ID -> ID of the category that has most of its samples.
      split: old ID -> new IDs of categories whose largest overlap is with it.
      moved: sample ID -> (old ID, new ID or ""), where they differ.
      remembered: sample ID -> last ID, for samples that have no category now or
        are not in the log; if they return, their category inherits the ID.
      highest: the highest number ever assigned.
    """

    kept: int
    appeared: list[str]
    returned: list[str]
    vanished: list[str]
    merged: dict[str, str]
    split: dict[str, list[str]]
    moved: dict[str, tuple[str, str]]
    remembered: dict[str, str]
    highest: int

    def writer(self) -> files.Writer:
        """Returns a writer for the ledger, which is read with the next log."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        return files.text_writer(text + "\n")

    def __str__(self) -> str:
        """Returns a one-line summary for a terminal."""
        parts = sum(map(len, self.split.values()))
        return (
            f"IDs: {self.kept} kept, {len(self.appeared)} appeared, "
            f"{len(self.returned)} returned, {len(self.vanished)} vanished, "
            f"{len(self.merged)} merged into others, {parts} split off; "
            f"{len(self.moved)} samples moved"
        )


def extend(
    sample_ids: list[str], labels: np.ndarray, previous: Previous
) -> tuple[np.ndarray, Changes]:
    """Numbers categories so that old ones keep their numbers.

    Args:
      sample_ids: N unique sample IDs.
      labels: int `[N]`, category of each sample; -1 is none.
      previous: the previously assigned numbers.

    Returns:
      `(number, changes)`: int64 `[N]`, category number of each sample, -1 for
      none; and the changes.
    """
    labels = np.asarray(labels, np.int64)
    last = previous.remembered | previous.number
    old = np.array([last.get(s, -1) for s in sample_ids], np.int64)
    both = (labels >= 0) & (old >= 0)
    shared = pd.DataFrame({"was": old[both], "now": labels[both]})
    shared = shared.value_counts().reset_index()
    # Largest overlap first; ties go to the older ID, then to the lower label.
    shared = shared.sort_values(
        ["count", "was", "now"], ascending=[False, True, True]
    )
    was, now = shared["was"].tolist(), shared["now"].tolist()
    number: dict[int, int] = {}
    taken: set[int] = set()
    for a, b in zip(was, now, strict=True):
        if a not in taken and b not in number:
            number[b] = a
            taken.add(a)
    highest = previous.highest
    for label in np.unique(labels[labels >= 0]).tolist():
        if label not in number:
            highest += 1
            number[label] = highest
    table = np.full(labels.max(initial=-1) + 2, -1, np.int64)
    table[list(number)] = list(number.values())
    out = table[labels]  # label -1 indexes the last entry, which is -1
    leads = _Leads(_leading(was, now), _leading(now, was))
    return out, _changes(sample_ids, out, previous, number, leads, highest)


class _Leads(NamedTuple):
    """Old and new categories with the largest overlap."""

    now: dict[int, int]  # old number -> label
    was: dict[int, int]  # label -> old number


def _leading(of: list[int], which: list[int]) -> dict[int, int]:
    """Maps each `of` to its first `which`, which has the largest overlap."""
    return dict(zip(reversed(of), reversed(which), strict=True))


def _changes(
    sample_ids: list[str],
    new: np.ndarray,
    previous: Previous,
    number: dict[int, int],
    leads: _Leads,
    highest: int,
) -> Changes:
    """Compares the new categories with the previous ones."""
    before, after = set(previous.number.values()), set(number.values())
    gone = sorted(before - after)
    split: dict[str, list[str]] = {}
    appeared, returned = [], []
    for label, given in sorted(number.items(), key=lambda item: item[1]):
        if label not in leads.was:
            appeared.append(name(given))
        elif given > previous.highest:
            split.setdefault(name(leads.was[label]), []).append(name(given))
        elif given not in before:
            returned.append(name(given))
    given = dict(zip(sample_ids, new.tolist(), strict=True))
    return Changes(
        kept=len(before & after),
        appeared=appeared,
        returned=returned,
        vanished=[name(a) for a in gone if a not in leads.now],
        merged={
            name(a): name(number[leads.now[a]]) for a in gone if a in leads.now
        },
        split=split,
        moved={
            sample: (name(a), name(b) if b >= 0 else "")
            for sample, a in previous.number.items()
            if (b := given.get(sample, a)) != a
        },
        remembered={
            sample: name(a)
            for sample, a in (previous.remembered | previous.number).items()
            if given.get(sample, -1) < 0
        },
        highest=highest,
    )


def rename(
    rows: pd.DataFrame, left: pd.DataFrame, previous: Previous
) -> tuple[pd.DataFrame, Changes]:
    """Assigns stable IDs to the categories of a table.

    Args:
      rows: columns sample_id and category_id, with any category names.
      left: column sample_id, the samples without a category.
      previous: the previously assigned numbers.

    Returns:
      `(rows, changes)`: the rows with stable category IDs, and the changes.
    """
    codes, _ = pd.factorize(rows["category_id"])
    labels = np.concatenate([codes, np.full(len(left), -1)])
    sample_ids = [*rows["sample_id"], *left["sample_id"]]
    number, changes = extend(sample_ids, labels, previous)
    ids = [name(n) for n in number[: len(rows)].tolist()]
    return rows.assign(category_id=ids), changes
