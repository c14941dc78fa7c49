"""Data sets of the experiments: sample tables with train, val and test splits.

A data set is one table or a folder of tables, its folds. Each split may have
parts, as in `test/forward`, which are ranked separately. Without a split `val`,
a tenth of the training categories is set aside for it, chosen by a hash of the
category ID. Categories of `val` and `test` are never trained on.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from mixer_jax.data.images import checking
from mixer_jax.data.tables import holdout, table
from mixer_jax.experiments import fusions
from mixer_jax.retrieval import evaluate
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import listing, quoted

TRAIN, VAL, TEST = SPLITS = ("train", "val", "test")
_SUFFIXES = (".csv", ".parquet")


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One table of a data set.

    Attributes:
      data: the name of the data set.
      name: the name of the fold, that of its file without suffix.
      frame: the samples of the three splits, with the columns `path` (absolute
        path of the image; "" for none), `digest` (of the image's bytes) and
        `place` (row in the features of the data set).
      content: a hash of the samples and of their images' bytes.
    """

    data: str
    name: str
    frame: pd.DataFrame
    content: str

    def split(self, name: str) -> pd.DataFrame:
        """Returns the rows of a split, with all of its parts."""
        return table.select(self.frame, name)


def parse(text: str) -> dict[str, pathlib.Path]:
    """Parses `NAME=FOLDER_OR_TABLE[,NAME=...]`.

    Raises:
      UserError: if a name or a path is missing, or a name is given twice.
    """
    found: dict[str, pathlib.Path] = {}
    for part in text.split(","):
        name, _, path = part.partition("=")
        if not name or not path or name in found or "/" in name:
            raise UserError(
                f"--data has the part {quoted(part)}; write "
                "NAME=FOLDER_OR_TABLE, with a different name for each data set."
            )
        found[name] = pathlib.Path(path)
    return found


def read(
    paths: Mapping[str, str | os.PathLike], max_skipped: float
) -> dict[str, list[Fold]]:
    """Reads and checks the tables of data sets.

    Args:
      paths: `{name of the data set: table, or folder of tables}`.
      max_skipped: the maximum share of samples with unreadable images.

    Returns:
      The folds of each data set.

    Raises:
      UserError: if a table is missing or invalid, lacks a split, or has a
        category in two splits; names the file.
    """
    found = {}
    for name, path in paths.items():
        start, folds = 0, []
        for file in _tables(pathlib.Path(path)):
            frame = _read(file, max_skipped)
            places = np.arange(start, start + len(frame))
            frame, start = frame.assign(place=places), start + len(frame)
            content = identity.hash_texts(
                *(frame[column] for column in ("sample_id", "role", "digest")),
                *(frame[column] for column in ("text", "category_id", "group")),
                frame["split"],
            )
            folds.append(Fold(name, file.stem, frame, content))
        found[name] = folds
    return found


def _tables(path: pathlib.Path) -> list[pathlib.Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
    if not found:
        raise UserError(
            f"The folder {path} has no sample table, that is, no .csv or "
            ".parquet file; pass a table, or a folder with one table per fold."
        )
    return found


def _read(path: pathlib.Path, max_skipped: float) -> pd.DataFrame:
    """Returns the checked samples of a table's three splits."""
    frame = with_validation(table.read_table(path), path)
    root = table.folder(path)
    frame, _ = checking.check_images(frame, root, max_skipped)
    frame = fusions.with_paths(frame, root)
    frame = frame.assign(digest=evaluate.image_digests(frame, root))
    for split in SPLITS:
        _check_answerable(table.select(frame, split), path)
    return frame.reset_index(drop=True)


def with_validation(frame: pd.DataFrame, path: os.PathLike) -> pd.DataFrame:
    """Returns the rows of the three splits; derives `val` if it is missing.

    Args:
      frame: a sample table with the splits `train` and `test`.
      path: its file, for messages.

    Raises:
      UserError: if a split is missing, or two splits share a category.
    """
    names = frame["split"].str.partition("/")[0]
    if not (names == VAL).any():
        chosen = {
            category: holdout.digest(category) % 10 == 1
            for category in frame["category_id"].unique()
        }
        held = (names == TRAIN) & frame["category_id"].map(chosen)
        moved = frame["split"].str.replace(TRAIN, VAL, n=1)
        frame = frame.assign(split=frame["split"].where(~held, moved))
        names = frame["split"].str.partition("/")[0]
    categories = {
        split: set(frame["category_id"][names == split]) for split in SPLITS
    }
    for split, own in categories.items():
        if not own:
            raise UserError(
                f"{path} has no samples of the split {split!r}; an experiment "
                f"needs {listing(SPLITS)}, or {TRAIN!r} with enough categories "
                f"to set some aside as {VAL!r}."
            )
    for one, other in itertools.combinations(SPLITS, 2):
        shared = sorted(categories[one] & categories[other])
        if shared:
            raise UserError(
                f"{len(shared)} categories of {path} are in the splits {one!r} "
                f"and {other!r}, such as {quoted(shared[0])}; assign each "
                "category to one split."
            )
    return frame[names.isin(SPLITS)]


def _check_answerable(frame: pd.DataFrame, path: os.PathLike) -> None:
    """Checks that each part has a query with a document of its category."""
    for split, rows in frame.groupby("split"):
        query = rows["role"] == table.QUERY
        if (
            not rows["category_id"][query]
            .isin(rows["category_id"][~query])
            .any()
        ):
            raise UserError(
                f"The split '{split}' of {path} has no query with a document "
                "of its category; give matching queries and documents the same "
                "category ID."
            )


class PairSampler:
    """Draws pairs of a query and a document of its category and part."""

    def __init__(self, frame: pd.DataFrame):
        """Finds the documents of each query.

        Args:
          frame: training samples with the column `digest`; documents that show
            the query's own image are not paired with it.

        Raises:
          UserError: if no query has a document.
        """
        self._digests = pd.factorize(frame["digest"])[0]
        group = frame.groupby(["split", "category_id"]).ngroup().to_numpy()
        is_query = (frame["role"] == table.QUERY).to_numpy()
        documents = np.flatnonzero(~is_query)
        self._documents = documents[np.argsort(group[documents], kind="stable")]
        ordered = group[self._documents]
        queries = np.flatnonzero(is_query)
        first = np.searchsorted(ordered, group[queries], "left")
        last = np.searchsorted(ordered, group[queries], "right")
        ranges = zip(queries, first, last, strict=True)
        usable = np.array([self._has_other(*one) for one in ranges], bool)
        if not usable.any():
            raise UserError(
                "No training query has a document of its category with another "
                "image, so there are no pairs to train on."
            )
        self._queries, self._first, self._last = (
            values[usable] for values in (queries, first, last)
        )

    def __len__(self) -> int:
        """Returns the number of queries that have a document."""
        return len(self._queries)

    def _has_other(self, query: int, first: int, last: int) -> bool:
        """Returns whether a document shows another image than the query."""
        documents = self._documents[first:last]
        return bool((self._digests[documents] != self._digests[query]).any())

    def draw(
        self, rng: np.random.Generator, steps: int, pairs: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields batches: positions of queries and of documents, int [pairs].

        All queries are used before one is used again, in a new order each time.
        """
        count = len(self._queries)
        epochs = -(-steps * pairs // count)
        order = np.concatenate([rng.permutation(count) for _ in range(epochs)])
        for number in order[: steps * pairs].reshape(steps, pairs):
            queries = self._queries[number]
            first, last = self._first[number], self._last[number]
            drawn = self._documents[rng.integers(first, last)]
            while (own := self._is_own(queries, drawn)).any():
                again = self._documents[rng.integers(first[own], last[own])]
                drawn[own] = again
            yield queries, drawn

    def _is_own(self, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
        return self._digests[queries] == self._digests[documents]
