"""Sample tables, the data format that all commands share.

A sample is a query (an image) or a document (an image and a text, either of
which may be missing). A table is a CSV or Parquet file with the columns of
`COLUMNS`; every cell is a string and "" means missing. A crop box has columns
of its own, and becomes a part of the image's name, see `boxes`. A split is
`name` or `name/part`: training uses all parts together, evaluation ranks each
part separately.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mixer_jax.data.tables import roots, rules
from mixer_jax.data.tables.rules import COLUMNS, DOCUMENT, QUERY
from mixer_jax.runtime import files, results
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import boxes, tables
from mixer_jax.runtime.tabular import parts as parts_lib
from mixer_jax.runtime.text import LISTED, listing, quoted

folder = parts_lib.parent  # base of relative image paths
# Remedy for training samples that are alone in their category.
LONE_REMEDY = (
    "Add a second sample to each of these categories, merge them with others"
)
MAX_SKIPPED = "--max-skipped"  # default name of the option in messages
MAX_SKIPPED_HELP = (
    "maximum share of samples to leave out (default: the trained "
    "config's data.max_skipped)"
)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Description of the samples left out.

    Attributes:
      reason: why they were left out, such as "unreadable images".
      count: the number of samples left out.
      total: the number of samples, including those left out.
      examples: one line for each of the first ten, with its row and reason.
      kinds: the number of samples per kind of fault; may be empty.
      listing: the path of a file that lists them all; "" if there is none.
    """

    reason: str
    count: int
    total: int
    examples: tuple[str, ...] = ()
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    listing: str = ""

    def __str__(self) -> str:
        text = f"{self.count} of {self.total} samples skipped: {self.reason}"
        kinds = [f"{n} {kind}" for kind, n in self.kinds.items() if n]
        if kinds:
            text += f" ({', '.join(kinds)})"
        return text + (f"; {self.listing} lists them" if self.listing else "")

    def with_examples(self) -> str:
        """Returns the description with one line per example."""
        return "\n  ".join([str(self), *self.examples])

    @property
    def share(self) -> float:
        """The share of the samples left out."""
        return self.count / max(self.total, 1)

    def _next_share(self) -> float:
        """Returns the share rounded up to three decimals."""
        return min(math.ceil(self.share * 1000) / 1000, 1.0)

    def require(
        self, max_skipped: float, remedy: str, option: str = MAX_SKIPPED
    ) -> "Skipped":
        """Returns self; raises if the skipped share exceeds `max_skipped`.

        Args:
          max_skipped: the maximum share of skipped samples.
          remedy: a clause that names other remedies; precedes ", or raise ...".
          option: the option that sets `max_skipped`, for the error message.

        Raises:
          UserError: lists the first ten samples and the remedy.
        """
        if self.share <= max_skipped:
            return self
        lines = "\n  ".join(self.examples)
        more = self.count - len(self.examples)
        tail = f"\n  ... and {more} more." if more > 0 else ""
        raise UserError(
            f"{self}. That is a share of {self.share:.3g}; {option} "
            f"allows {max_skipped:.3g}.\n  {lines}{tail}\n{remedy}, or raise "
            f"{option} to {self._next_share():g}."
        )


def read_table(path: str | os.PathLike, image_roots: str = "") -> pd.DataFrame:
    """Reads and checks a sample table.

    Args:
      path: a `.csv` (UTF-8, commas) or `.parquet` file, or a folder of
        files of one of these formats.
      image_roots: folders that may hold images; see `roots.rules`.

    Returns:
      A frame with the columns of `COLUMNS`, all strings, indexed from 0 to N-1.

    Raises:
      UserError: names the file, row and column of the error. A CSV row is named
        by the line it starts on; the header is line 1.
    """
    frame = tables.read(path, rules.LAYOUT)
    validate(frame, roots.rules(folder(path), image_roots))
    return boxes.join(frame)


def write_table(frame: pd.DataFrame, path: str | os.PathLike) -> None:
    """Checks a frame and writes it atomically, as CSV or Parquet by suffix."""
    results.deliver(path, writer(frame, path), "The sample table")


def writer(frame: pd.DataFrame, path: str | os.PathLike) -> files.Writer:
    """Checks a frame and returns a writer for it; see `write_table`."""
    rules.LAYOUT.check(frame.columns, path)
    validate(frame)
    return tables.writer(frame.loc[:, list(COLUMNS)], path)


def validate(frame: pd.DataFrame, more: tuple[rules.Rule, ...] = ()) -> None:
    """Raises a `UserError` that names the first row that breaks a rule."""
    if frame.empty:
        raise UserError(f"{_table(frame)} has no rows, only a header.")
    for fault in rules.faults(frame, (*rules.RULES, *more)):
        raise UserError(fault.describe(name_rows(frame, [fault.row])[0]))


def select(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """Returns the rows of a split and its parts, in the table's order.

    The result's `attrs["split"]` is the name of the split.

    Raises:
      UserError: if the split has no rows; names the existing splits.
    """
    names = sorted(frame["split"].unique())
    # Compare in Python, since Arrow fails if `split` is not valid Unicode.
    chosen = [name for name in names if f"{name}/".startswith(f"{split}/")]
    if not chosen:
        raise UserError(
            f"{_table(frame)} has no samples of split {quoted(split)}; its "
            f"splits are {listing(names)}."
        )
    selected = frame[frame["split"].isin(chosen)]
    selected.attrs["split"] = split
    return selected


def parts(frame: pd.DataFrame, split: str) -> list[str]:
    """Returns the sorted parts of a split; "" is for rows without a part."""
    names = select(frame, split)["split"].unique()
    return sorted(name[len(split) + 1 :] for name in names)


def category_index(frame: pd.DataFrame) -> list[str]:
    """Returns a frame's sorted category IDs; labels are indices into them."""
    return sorted(frame["category_id"].unique())


def labels(frame: pd.DataFrame, category_ids: Sequence[str]) -> np.ndarray:
    """Returns each row's index in `category_ids`, int32 [N]; -1 if absent."""
    index = pd.Index(category_ids)
    return index.get_indexer(frame["category_id"]).astype(np.int32)


def drop_lone(
    frame: pd.DataFrame,
    max_skipped: float,
    *,
    training: bool = True,
    option: str = MAX_SKIPPED,
) -> tuple[pd.DataFrame, Skipped]:
    """Drops samples that no other sample can match.

    In training, these are the samples that are alone in their category.
    In evaluation, these are queries whose category has no document in the same
    part; documents are kept, because they are valid distractors.

    Args:
      frame: the rows of one split; see `select`.
      max_skipped: the maximum share of dropped rows.
      training: whether to apply the rule for training.
      option: the option that sets `max_skipped`, for the error message.

    Returns:
      The kept rows, and a description of the dropped ones.

    Raises:
      UserError: if a larger share than `max_skipped` is dropped; lists the
        first ten samples.
    """
    if training:
        reason, remedy = "the only sample of their category", LONE_REMEDY
        lone = ~frame["category_id"].duplicated(keep=False)
    else:
        reason = "queries of a category without a document in their part"
        remedy = (
            "Add a document of each of these categories to the same split "
            "and part, remove the queries"
        )
        pairs = pd.MultiIndex.from_frame(frame[["split", "category_id"]])
        documents = frame["role"] == DOCUMENT
        answered = pd.Series(pairs.isin(pairs[documents]), index=frame.index)
        lone = ~(documents | answered)
    rows = np.flatnonzero(lone)
    details = [
        f"category {quoted(frame['category_id'].iloc[row])}"
        for row in rows[:LISTED]
    ]
    skipped = skip(frame, rows, details, reason)
    return frame[~lone], skipped.require(max_skipped, remedy, option)


def skip(
    frame: pd.DataFrame, rows: np.ndarray, details: Sequence[str], reason: str
) -> Skipped:
    """Describes the rows to leave out, given by position."""
    rows, details = np.asarray(rows, int), list(details)[:LISTED]
    names = name_rows(frame, rows[:LISTED])
    examples = (f"{a}: {b}" for a, b in zip(names, details, strict=True))
    return Skipped(reason, len(rows), len(frame), tuple(examples))


def with_both_directions(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds each sample again with the opposite role.

    A document with an image also serves as a query. A query also serves as a
    document, with the text of its category's first document that has one.

    Args:
      frame: a table whose splits have no parts.

    Returns:
      The given rows with split `name/forward`, then the reversed ones with IDs
      `reverse:ID` and split `name/reverse`.

    Raises:
      UserError: if a split has parts already.
    """
    if frame["split"].str.contains("/").any():
        raise UserError(
            f"{_table(frame)} already has splits with parts; both directions "
            "cannot be added."
        )
    query = frame["role"] == QUERY
    titled = frame[~query & (frame["text"] != "")]
    texts = titled.drop_duplicates("category_id").set_index("category_id")
    borrowed = frame["category_id"].map(texts["text"]).fillna("")
    flipped = frame.assign(
        sample_id="reverse:" + frame["sample_id"],
        role=np.where(query, DOCUMENT, QUERY),
        text=borrowed.where(query, ""),
        split=frame["split"] + "/reverse",
    )
    flipped = flipped[frame["image"] != ""]
    frame = frame.assign(split=frame["split"] + "/forward")
    both = pd.concat([frame, flipped], ignore_index=True)
    # The new rows do not correspond to lines of a file.
    both.attrs.clear()
    return both


def name_rows(frame: pd.DataFrame, rows: Sequence[int]) -> list[str]:
    """Names the rows at given positions, by file and line if known."""
    records = [int(frame.index[row]) for row in rows]
    return tables.name_records(frame.attrs.get("table", ""), records)


def _table(frame: pd.DataFrame) -> str:
    path = frame.attrs.get("table", "")
    return f"The sample table {path}".rstrip()
