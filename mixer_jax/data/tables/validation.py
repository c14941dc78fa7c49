"""Checks sample tables that are too large for memory, batch by batch.

The rules are those of `table.validate`. Memory use is 16 bytes per row for
hashes of the ID and the category (twice that at the end, for counting), plus 16
bytes per category to find IDs that look alike. IDs with equal hashes are
compared in a second pass. Categories with equal hashes would be counted as one;
with ten million categories, the probability of this is five in a million.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.tables import (
    category_notes,
    near_paths,
    roots,
    rules,
    table,
)
from mixer_jax.data.tables.category_notes import hash_cells
from mixer_jax.runtime import progress
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import addresses, image_reader, tables
from mixer_jax.runtime.terminal import Console, Table
from mixer_jax.runtime.text import LISTED, quoted

_COMPARED = 1_000_000  # hashes whose IDs are compared per pass over the table
_STATS = 256  # files looked up per thread task
_SHOWN = 50  # maximum number of splits shown in the terminal
_ALONE = [rule for rule in rules.RULES if rule is not rules.REPEATED]


@dataclasses.dataclass
class SplitCounts:
    """Counts of one split, or of one part of a split.

    Attributes:
      queries: number of queries.
      documents: number of documents.
      textless: documents without a text.
      imageless: documents without an image.
      categories: number of categories.
      unanswered: queries without a document of their category in the split.
    """

    queries: int = 0
    documents: int = 0
    textless: int = 0
    imageless: int = 0
    categories: int = 0
    unanswered: int = 0


@dataclasses.dataclass
class Report:
    """A summary of a sample table.

    Attributes:
      samples: the number of samples.
      categories: the number of categories.
      lone: number of train samples that are alone in their category.
      one_role: number of train categories with at least two samples that are
        all queries or all documents.
      alike: number of category IDs that look like an earlier one.
      alike_examples: the first ten such pairs of IDs.
      cross_split: number of categories in several splits, ignoring parts.
      splits: the counts of each split, by name.
      missing: samples whose image is missing or empty; None if not checked.
    """

    samples: int
    categories: int
    lone: int
    cross_split: int
    splits: dict[str, SplitCounts]
    missing: table.Skipped | None = None
    one_role: int = 0
    alike: int = 0
    alike_examples: tuple[tuple[str, str], ...] = ()

    def notes(self) -> list[str]:
        """Returns warnings to read before training, one sentence each."""
        messages = []
        if self.cross_split:
            messages.append(
                f"{self.cross_split:,} categories are in several splits; "
                "evaluation on them would use training data."
            )
        if self.lone:
            messages.append(
                f"{self.lone:,} training samples are the only ones of their "
                "category; training leaves them out."
            )
        messages += category_notes.sentences(
            self.one_role, self.alike, self.alike_examples
        )
        unanswered = [
            f"{counts.unanswered:,} queries of {name} have no document of "
            "their category in that split; evaluation leaves them out."
            for name, counts in self.splits.items()
            if name.split("/")[0] != "train" and counts.unanswered
        ]
        messages += unanswered[:LISTED]
        if more := len(unanswered[LISTED:]):
            messages.append(f"{more:,} other splits have such queries too.")
        if self.missing is not None and self.missing.count:
            lines = [str(self.missing), *self.missing.examples]
            messages.append("\n  ".join(lines))
        return messages

    def console_table(self) -> Table:
        """Returns the counts per split as a table for the terminal."""
        shown = Table(box=None, pad_edge=False)
        shown.add_column("split", overflow="fold")
        for field in dataclasses.fields(SplitCounts):
            shown.add_column(field.name, justify="right", no_wrap=True)
        for name, counts in itertools.islice(self.splits.items(), _SHOWN):
            cells = dataclasses.astuple(counts)
            shown.add_row(name, *(f"{cell:,}" for cell in cells))
        if len(self.splits) > _SHOWN:
            shown.add_row(f"and {len(self.splits) - _SHOWN:,} more splits")
        return shown


def check(
    path: str | os.PathLike,
    *,
    images: bool = False,
    image_roots: str = "",
    max_skipped: float = 0.01,
    rows: int = tables.ROWS,
    block: int = tables.BLOCK,
    threads: int | None = None,
    console: Console | None = None,
) -> Report:
    """Checks a table and returns a summary of its contents.

    Args:
      path: a `.csv` or `.parquet` file, or a folder of either.
      images: whether to look for the image files as well.
      image_roots: folders that may hold images; see `roots.rules`.
      max_skipped: the maximum share of samples whose image may be missing.
      rows: the rows per batch of a Parquet table.
      block: the bytes per batch of a CSV table.
      threads: number of threads that look for images; None for four per core.
      console: shows the progress; None for no progress display.

    Raises:
      UserError: names each broken rule with the first row that breaks it; or
        the first ten missing images, if their share exceeds `max_skipped`.
    """
    path = Path(path)
    console = console or Console(quiet=True)
    counter, faults, ids = _Counter(), {}, []
    alone = [*_ALONE, *roots.rules(table.folder(path), image_roots)]
    names = category_notes.LookAlikes()
    missing = _MissingImages(path, threads) if images else None

    def read(label: str) -> Iterator[pd.DataFrame]:
        done = 0.0
        with progress.show(label, 1.0, console=console) as count:
            for batch in tables.batches(
                path, rules.LAYOUT, rows=rows, block=block
            ):
                yield batch.rows
                count(batch.done - done)
                done = batch.done

    for batch in read("Checking the table"):
        for fault in rules.faults(batch, alone):
            _add(faults, fault, int(batch.index[0]))
        ids.append(hash_cells(batch["sample_id"]))
        names.add(batch["category_id"])
        counter.add(batch)
        if missing is not None:
            missing.add(batch)
    if not counter.samples:
        raise UserError(f"The sample table {path} has no rows, only a header.")
    suspects = _repeated_hashes(ids)
    for start in range(0, len(suspects), _COMPARED):
        part = suspects[start : start + _COMPARED]
        for fault in _repeated_ids(read("Comparing IDs"), part):
            _add(faults, fault, 0)
    if faults:
        raise UserError(_message(faults, path))
    report = counter.report()
    report.alike = names.count()
    if report.alike:
        batches = read("Comparing categories")
        report.alike_examples = names.examples(batches)
    if missing is not None:
        report.missing = missing.skipped(counter.samples).require(
            max_skipped,
            f"Repair these files under {table.folder(path)}, remove their rows",
        )
    return report


class _Categories(NamedTuple):
    """The categories of one split or part.

    Attributes:
      hashes: uint64 `[C]`, the distinct hashes of the categories.
      sizes: int `[C]`, the number of samples of each category.
      documents: int `[C]`, the number of documents of each category.
    """

    hashes: np.ndarray
    sizes: np.ndarray
    documents: np.ndarray


class _Counter:
    """Counts samples and categories."""

    def __init__(self):
        self.samples = 0
        self._splits: dict[str, SplitCounts] = {}
        # For each split, one number per sample: the hash of its category, with
        # the last bit set for documents.
        self._marks: dict[str, list[np.ndarray]] = {}

    def add(self, batch: pd.DataFrame) -> None:
        self.samples += len(batch)
        document = (batch["role"] != rules.QUERY).to_numpy(bool)
        textless = document & (batch["text"] == "").to_numpy(bool)
        imageless = document & (batch["image"] == "").to_numpy(bool)
        marks = hash_cells(batch["category_id"]) & ~np.uint64(1) | document
        codes, names = pd.factorize(batch["split"])
        ends = np.bincount(codes).cumsum()
        rows = np.split(np.argsort(codes, kind="stable"), ends[:-1])
        for name, here in zip(names, rows, strict=True):
            counts = self._splits.setdefault(name, SplitCounts())
            counts.queries += int((~document[here]).sum())
            counts.documents += int(document[here].sum())
            counts.textless += int(textless[here].sum())
            counts.imageless += int(imageless[here].sum())
            self._marks.setdefault(name, []).append(marks[here])

    def report(self) -> Report:
        found: dict[str, list[_Categories]] = {}  # by split, ignoring parts
        for name, counts in sorted(self._splits.items()):
            marks = _concatenate(self._marks.pop(name))
            marks.sort()
            document = (marks & np.uint64(1)).astype(bool)
            marks >>= np.uint64(1)
            starts = np.flatnonzero(np.diff(marks, prepend=~marks[:1]))
            size = np.diff(starts, append=len(marks))
            document_counts = np.add.reduceat(document, starts, dtype=np.int64)
            counts.categories = len(starts)
            counts.unanswered = int(size[document_counts == 0].sum())
            base = name.split("/")[0]
            categories = _Categories(marks[starts], size, document_counts)
            found.setdefault(base, []).append(categories)
        lone, one_role = _count_untrainable(found.get("train", []))
        everywhere = [
            np.unique(_concatenate([part.hashes for part in parts]))
            for parts in found.values()
        ]
        _, times = np.unique(_concatenate(everywhere), return_counts=True)
        shared = int((times > 1).sum())
        splits = dict(sorted(self._splits.items()))
        return Report(
            self.samples, len(times), lone, shared, splits, one_role=one_role
        )


class _MissingImages:
    """Collects samples whose image file is missing or empty."""

    def __init__(self, path: Path, threads: int | None):
        self._path, self._root = path, table.folder(path)
        self._count = 0
        self._examples: list[tuple[int, str]] = []  # record and image
        self._threads = threads

    def add(self, batch: pd.DataFrame) -> None:
        codes, names = pd.factorize(addresses.localize(batch["image"]))
        exists = present(self._root, names, self._threads)
        missing = np.flatnonzero(~exists[codes])
        self._count += len(missing)
        some = batch.iloc[missing[: LISTED - len(self._examples)]]
        self._examples += zip(some.index, some["image"], strict=True)

    def skipped(self, total: int) -> table.Skipped:
        records = [record for record, _ in self._examples]
        where = tables.name_records(self._path, records)
        examples = (
            f"{place}: {quoted(image)} is missing or empty."
            f"{near_paths.hint(self._root / image, self._root)}"
            for place, (_, image) in zip(where, self._examples, strict=True)
        )
        reason = "missing or empty images"
        return table.Skipped(reason, self._count, total, tuple(examples))


def present(
    root: str | os.PathLike, paths: Sequence[str], threads: int | None = None
) -> np.ndarray:
    """Returns which image files exist and are not empty.

    Args:
      root: the folder that the paths are relative to.
      paths: N paths; "" for a sample without an image.
      threads: number of threads, which mostly wait; None for four per core.

    Returns:
      bool `[N]`; true for the path "".

    Raises:
      OSError: if the file system fails temporarily; the files may exist.
    """
    root = os.fspath(root)

    def look(part: Sequence[str]) -> list[bool]:
        return [
            not one or image_reader.is_filled(os.path.join(root, one))
            for one in part
        ]

    paths = list(paths)
    parts = [paths[i : i + _STATS] for i in range(0, len(paths), _STATS)]
    with threads_lib.pool(threads or 4 * (os.cpu_count() or 1)) as pool:
        found = itertools.chain.from_iterable(pool.map(look, parts))
        return np.fromiter(found, bool, len(paths))


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Returns the concatenated parts; empties `parts` to save memory."""
    joined = np.empty(sum(map(len, parts)), np.uint64)
    end = len(joined)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    return joined


def _count_untrainable(parts: Sequence[_Categories]) -> tuple[int, int]:
    """Counts categories with one sample, and those with several of one role."""
    if not parts:
        return 0, 0
    hashes, sizes, documents = map(np.concatenate, zip(*parts, strict=True))
    _, place = np.unique(hashes, return_inverse=True)
    total = np.bincount(place, weights=sizes)
    shown = np.bincount(place, weights=documents)
    same = (total > 1) & ((shown == 0) | (shown == total))
    return int((total == 1).sum()), int(same.sum())


def _repeated_hashes(ids: list[np.ndarray]) -> np.ndarray:
    """Returns the sorted hashes that occur repeatedly; empties `ids`."""
    hashes = _concatenate(ids)
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _repeated_ids(
    batches: Iterable[pd.DataFrame], suspects: np.ndarray
) -> Iterator[rules.Fault]:
    """Yields a fault for each repeated ID whose hash is in `suspects`."""
    index, seen = pd.Index(suspects), set()
    for batch in batches:
        place = index.get_indexer(hash_cells(batch["sample_id"]))
        for row in np.flatnonzero(place >= 0):
            name = batch["sample_id"].iloc[row]
            if name in seen:
                record = int(batch.index[row])
                yield rules.Fault(rules.REPEATED, record, name, 1)
            seen.add(name)


def _add(
    faults: dict[rules.Rule, rules.Fault], fault: rules.Fault, start: int
) -> None:
    """Merges a batch's fault into those of earlier batches."""
    fault = fault._replace(row=fault.row + start)
    if before := faults.get(fault.rule):
        first = min(before, fault, key=lambda one: one.row)
        fault = first._replace(count=before.count + fault.count)
    faults[fault.rule] = fault


def _message(faults: dict[rules.Rule, rules.Fault], path: Path) -> str:
    """Returns a message with one line per broken rule, in the rules' order."""
    order = dict.fromkeys((*rules.RULES, *faults))
    broken = [faults[rule] for rule in order if rule in faults]
    where = tables.name_records(path, [fault.row for fault in broken])
    lines = (a.describe(b) for a, b in zip(broken, where, strict=True))
    return "\n".join(lines)
