"""Warnings about suspicious categories, shown before training."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mixer_jax.runtime import similar
from mixer_jax.runtime.text import quoted

_MAX_PAIRS = 3  # maximum number of ID pairs per note


def notes(frame: pd.DataFrame, category_ids: Sequence[str]) -> tuple[str, ...]:
    """Returns warnings about the categories of a frame.

    Args:
      frame: training rows of a sample table.
      category_ids: the distinct category IDs of the frame.
    """
    roles = frame.groupby("category_id")["role"].nunique()
    alike = similar.pairs(category_ids)
    return tuple(sentences(int((roles == 1).sum()), len(alike), alike))


class LookAlikes:
    """Finds category IDs that look alike; stores two hashes per ID."""

    def __init__(self):
        self._keys = self._names = np.zeros(0, np.uint64)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending = 0

    def add(self, categories: pd.Series) -> None:
        """Adds the category IDs of a batch of rows."""
        names = pd.Series(categories.unique(), dtype=object)
        self._parts.append((_hash_keys(names), hash_cells(names)))
        self._pending += len(names)
        # Merging removes repeated categories, which limits memory use.
        if self._pending > max(len(self._keys), 1 << 20):
            self._merge()

    def count(self) -> int:
        """Returns the number of IDs that look like an earlier one."""
        self._merge()
        return len(self._suspects())

    def examples(
        self, batches: Iterable[pd.DataFrame], limit: int = 10
    ) -> tuple[tuple[str, str], ...]:
        """Returns the first pairs of IDs that look alike.

        Args:
          batches: the rows of the table, read a second time.
          limit: the maximum number of pairs.
        """
        suspects = self._suspects()
        first: dict[int, str] = {}
        pairs: dict[str, str] = {}
        for batch in batches:
            names = pd.Series(batch["category_id"].unique(), dtype=object)
            hashes = _hash_keys(names)
            for row in np.flatnonzero(np.isin(hashes, suspects)):
                name = names[row]
                earlier = first.setdefault(int(hashes[row]), name)
                if earlier != name:
                    pairs.setdefault(name, earlier)
            if len(pairs) >= limit:
                break
        return tuple((b, a) for a, b in pairs.items())[:limit]

    def _merge(self) -> None:
        parts = [(self._keys, self._names), *self._parts]
        keys, names = (np.concatenate(one) for one in zip(*parts, strict=True))
        order = np.lexsort((names, keys))
        keys, names = keys[order], names[order]
        new = np.ones(len(keys), bool)
        new[1:] = (keys[1:] != keys[:-1]) | (names[1:] != names[:-1])
        self._keys, self._names = keys[new], names[new]
        self._parts, self._pending = [], 0

    def _suspects(self) -> np.ndarray:
        return self._keys[1:][self._keys[1:] == self._keys[:-1]]


def sentences(
    one_role: int, alike: int, examples: Sequence[tuple[str, str]]
) -> list[str]:
    """Returns one sentence per warning.

    Args:
      one_role: the number of training categories with a single role.
      alike: the number of category IDs that look like an earlier one.
      examples: pairs of IDs that look alike.
    """
    messages = []
    if one_role:
        messages.append(
            f"{one_role:,} training categories have only queries or only "
            "documents, so training has no matching pairs for them."
        )
    if alike:
        shown = ", ".join(
            f"{quoted(b)} and {quoted(a)}" for a, b in examples[:_MAX_PAIRS]
        )
        messages.append(
            f"{alike:,} category IDs differ from another ID only in "
            "whitespace, invisible characters, case, Unicode normal form or a "
            f"number's zeros ({shown}); training treats them as different "
            "categories."
        )
    return messages


def _hash_keys(names: pd.Series) -> np.ndarray:
    keys = similar.keys(names.tolist()).to_pylist()
    return hash_cells(pd.Series(keys, dtype=object))


def hash_cells(cells: pd.Series) -> np.ndarray:
    """Returns a hash of each string, uint64 `[N]`, equal across runs."""
    return pd.util.hash_array(cells.to_numpy(object), categorize=False)
