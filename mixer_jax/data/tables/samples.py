"""Training samples as columns of integers, in memory or mapped from files.

A table of strings takes hundreds of bytes per sample. The properties that
training needs, such as a sample's category, fit into a few integers, which are
stored with the prepared samples and mapped into memory when a run starts.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixer_jax.data.tables import table
from mixer_jax.runtime import arrays, files
from mixer_jax.runtime.tabular import references, strings

ROLES = (table.QUERY, table.DOCUMENT)
_CATEGORIES = "category_ids.arrow"
_COLUMNS = {
    "labels": np.int32,
    "is_document": np.bool_,
    "by_role": np.int64,
    "by_category": np.int64,
    "begins": np.int64,
    "images": np.int32,
    "texts": np.int32,
    "first_image": np.int64,
    "first_text": np.int64,
}


class Samples:
    """The columns of N samples in C categories.

    Attributes:
      category_ids: the C sorted category IDs; a label is a position in them.
      labels: int32 `[N]`, the category of each sample.
      is_document: bool `[N]`, True for documents, False for queries.
      by_role: int64 `[N]`, the positions of the queries, then of the documents,
        each in ascending order.
      by_category: int64 `[N]`, the same positions, with those of the same role
        sorted by category.
      begins: int64 `[2, C + 1]`, where the positions of each category begin in
        `by_category`, for queries and documents; the last column is the end.
      images: int32 `[N]`, the index of each sample's image among the distinct
        images, in order of appearance; -1 without an image.
      texts: int32 `[N]`, the same for texts.
      first_image: int64, the first sample with each distinct image.
      first_text: int64, the first sample with each distinct text.
    """

    category_ids: Sequence[str]
    labels: np.ndarray
    is_document: np.ndarray
    by_role: np.ndarray
    by_category: np.ndarray
    begins: np.ndarray
    images: np.ndarray
    texts: np.ndarray
    first_image: np.ndarray
    first_text: np.ndarray

    def __init__(
        self,
        category_ids: Sequence[str],
        columns: dict[str, np.ndarray],
        folder: Path | None = None,
    ):
        """Initializes the columns with the arrays listed above.

        Args:
          category_ids: the category IDs.
          columns: the arrays by name.
          folder: the folder that they were read from, if any.
        """
        self.category_ids, self._folder = category_ids, folder
        self.__dict__.update(columns)

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process maps the same files.
        folder = self._folder
        return self.__dict__ if folder is None else {"_folder": folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state["_folder"]
        self.__dict__.update(state if folder is None else vars(read(folder)))

    def __len__(self) -> int:
        """Returns N."""
        return len(self.labels)

    @property
    def num_categories(self) -> int:
        """The number of categories, C."""
        return len(self.category_ids)

    def of_role(self, role: str) -> np.ndarray:
        """Returns the ascending positions of a role's samples, int64."""
        number = ROLES.index(role)
        begins = self.begins[number]
        return self.by_role[begins[0] : begins[-1]]

    def counts(self, role: str) -> np.ndarray:
        """Returns each category's number of samples of a role, int64 `[C]`."""
        return np.diff(self.begins[ROLES.index(role)])

    def of_category(self, role: str, category: int) -> np.ndarray:
        """Returns the ascending positions of a category's samples of a role."""
        begins = self.begins[ROLES.index(role)]
        return self.by_category[begins[category] : begins[category + 1]]

    def select(self, rows: np.ndarray, role: str) -> np.ndarray:
        """Returns the given positions whose samples have a role."""
        rows = np.asarray(rows, np.int64)
        return rows[self.is_document[rows] == (role == table.DOCUMENT)]


def from_frame(frame: pd.DataFrame) -> Samples:
    """Returns the columns of the rows of a sample table."""
    ids = table.category_index(frame)
    labels = table.labels(frame, ids)
    is_document = (frame["role"] == table.DOCUMENT).to_numpy(bool)
    # One sort key for both: queries come first.
    keys = labels.astype(np.int64) + is_document * len(ids)
    counts = np.bincount(keys, minlength=2 * len(ids))
    ends = np.concatenate([[0], np.cumsum(counts)])
    images, first_image = _distinct(references.contents(frame["image"]))
    texts, first_text = _distinct(frame["text"])
    columns = dict(
        labels=labels,
        is_document=is_document,
        by_role=np.argsort(is_document, kind="stable"),
        by_category=np.argsort(keys, kind="stable"),
        begins=np.stack([ends[: len(ids) + 1], ends[len(ids) :]]),
        images=images,
        texts=texts,
        first_image=first_image,
        first_text=first_text,
    )
    return Samples(
        ids, {name: columns[name].astype(t) for name, t in _COLUMNS.items()}
    )


def _distinct(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Returns a code per row, -1 for "", and the first row with each code."""
    codes, _ = pd.factorize(values.where(values != ""))
    first = np.flatnonzero((codes >= 0) & ~pd.Series(codes).duplicated())
    return codes, first


def write(folder: Path, samples: Samples) -> None:
    """Writes the columns to an existing folder.

    Raises:
      OSError: if a file cannot be written.
    """
    for name in _COLUMNS:
        arrays.write(folder / f"{name}.npy", getattr(samples, name))
    ids = samples.category_ids
    files.write(folder / _CATEGORIES, lambda path: strings.write(path, ids))


def read(folder: str | os.PathLike) -> Samples:
    """Returns the columns in a folder, mapped into memory.

    Raises:
      OSError: if a file cannot be read.
      ValueError: if a file is damaged.
    """
    folder = Path(os.path.abspath(folder))
    columns = {
        name: np.asarray(arrays.read(folder / f"{name}.npy", mapped=True))
        for name in _COLUMNS
    }
    samples = Samples(strings.Strings(folder / _CATEGORIES), columns, folder)
    count = len(samples)
    shapes = {
        "begins": (2, samples.num_categories + 1),
        "first_image": samples.first_image.shape[:1],
        "first_text": samples.first_text.shape[:1],
    }
    for name, dtype in _COLUMNS.items():
        found = getattr(samples, name)
        if (found.dtype, found.shape) != (dtype, shapes.get(name, (count,))):
            raise ValueError(f"{name}.npy has an unexpected shape or dtype")
    return samples
