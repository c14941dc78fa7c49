"""Ranking metrics, as sums and counts over queries.

A query is answerable if its gallery has a document of its category. A mask
excludes unanswerable queries from every metric, as no ranking can answer them.
"""

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

KEY = ("model", "stage", "split", "gallery")  # identifies a row of measures
# (key, heading, explanation) of each measure.
DEFINITIONS = (
    (
        "identical_at_1",
        "Identical@1",
        "Share of queries whose top document is in their category.",
    ),
    (
        "identical_at_5",
        "Identical@5",
        "Share of queries with a document of their category among the top "
        "five.",
    ),
    (
        "relevance_at_1",
        "Relevance@1",
        "Share of queries whose top document is in their group, a coarser "
        "label; only for data with groups.",
    ),
    (
        "map",
        "MAP",
        "Mean over queries of the average precision of the whole ranking.",
    ),
    (
        "map_at_r",
        "MAP@R",
        "MAP cut off at R, the number of relevant documents of the query.",
    ),
    (
        "mrr",
        "MRR",
        "Mean over queries of 1 / position of the first document in the "
        "query's category.",
    ),
)


class Mean(NamedTuple):
    """A mean as a sum and a count, so that blocks can be merged."""

    total: float = 0.0
    count: int = 0

    def merge(self, other: "Mean") -> "Mean":
        """Returns the mean over both sets of queries."""
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float | None:
        """The mean, or None if nothing was counted."""
        return self.total / self.count if self.count else None


def _mean(values: np.ndarray, mask: np.ndarray) -> Mean:
    return Mean(float(values[mask].sum()), int(mask.sum()))


def identical_at(
    found: np.ndarray, labels: np.ndarray, mask: np.ndarray, k: int
) -> Mean:
    """Identical@k: share of queries with their category in the top k.

    Args:
      found: int `[Q, >= k]`, the categories of the nearest documents, nearest
        first; -1 where there is no document.
      labels: int `[Q]`, the queries' categories, from 0.
      mask: bool `[Q]`, the queries to count.
      k: the number of documents to consider.

    Raises:
      ValueError: if fewer than k columns are given.
    """
    hits = _top(found, k) == labels[:, None]
    return _mean(hits.any(axis=1).astype(np.float64), mask)


def relevance_at(
    found: np.ndarray, groups: np.ndarray, mask: np.ndarray, k: int
) -> Mean:
    """Relevance@k: mean share of the top k that are in the query's group.

    If a gallery has fewer than k documents, the share is over all of them.
    Queries without a group are not counted.

    Args:
      found: int `[Q, >= k]`, the groups of the nearest documents: -1 for a
        document without a group, -2 where there is no document.
      groups: int `[Q]`, the queries' groups; -1 for none.
      mask: bool `[Q]`, the queries to count.
      k: the number of documents to consider.

    Raises:
      ValueError: if fewer than k columns are given.
    """
    top = _top(found, k)
    available = (top > -2).sum(axis=1)
    hits = (top == groups[:, None]).sum(axis=1)
    share = hits / np.maximum(available, 1)
    return _mean(share, mask & (groups >= 0) & (available > 0))


def mean_average_precision(positions: np.ndarray, mask: np.ndarray) -> Mean:
    """MAP: mean over queries of the average precision of the whole ranking.

    A query's average precision is the mean of the precision at the positions
    of its relevant documents.

    Args:
      positions: int `[Q, R]`, positions of the relevant documents in the whole
        ranking, from 1 and in any order; 0 is padding.
      mask: bool `[Q]`, the queries to count.
    """
    return _mean_precision(positions, mask, cut=False)


def mean_average_precision_at_r(
    positions: np.ndarray, mask: np.ndarray
) -> Mean:
    """MAP@R: MAP cut off at R, the query's number of relevant documents.

    The arguments are those of `mean_average_precision`.

    References:
      Musgrave et al., "A metric learning reality check", section 3.2
      (arXiv 2003.08505).
    """
    return _mean_precision(positions, mask, cut=True)


def mean_reciprocal_rank(positions: np.ndarray, mask: np.ndarray) -> Mean:
    """MRR: mean of 1 / position of the first relevant document.

    The arguments are those of `mean_average_precision`.
    """
    relevant = positions > 0
    reciprocal = np.where(relevant, 1.0 / np.maximum(positions, 1), 0.0)
    best = reciprocal.max(axis=1, initial=0.0)
    return _mean(best, mask & relevant.any(axis=1))


def of_block(
    positions: np.ndarray,
    found: np.ndarray,
    labels: np.ndarray,
    found_groups: np.ndarray,
    groups: np.ndarray,
) -> dict[str, Mean]:
    """Returns the means of a block of queries, by key of `DEFINITIONS`.

    Args:
      positions: int `[Q, R]`, see `mean_average_precision`.
      found: int `[Q, >= 5]`, the categories of the nearest documents.
      labels: int `[Q]`, the queries' categories.
      found_groups: int `[Q, >= 5]`, the groups of the nearest documents.
      groups: int `[Q]`, the queries' groups.
    """
    mask = (positions > 0).any(axis=1)
    return {
        "identical_at_1": identical_at(found, labels, mask, 1),
        "identical_at_5": identical_at(found, labels, mask, 5),
        "relevance_at_1": relevance_at(found_groups, groups, mask, 1),
        "map": mean_average_precision(positions, mask),
        "map_at_r": mean_average_precision_at_r(positions, mask),
        "mrr": mean_reciprocal_rank(positions, mask),
    }


def is_row(value: Any) -> bool:
    """Returns whether a parsed JSON value is a row written by `evaluate`.

    Measures may be absent or None, except that the first must be present.
    """
    if not isinstance(value, dict) or DEFINITIONS[0][0] not in value:
        return False
    measures = [value.get(key) for key, _, _ in DEFINITIONS]
    return (
        all(isinstance(value.get(key), str) for key in KEY)
        and all(type(value.get(key)) is int for key in ("queries", "documents"))
        and all(
            measure is None
            or (
                isinstance(measure, int | float)
                and abs(measure) <= sys.float_info.max
            )
            for measure in measures
        )
    )


def by_key(rows: Iterable[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    """Returns a dict of rows by `KEY`; later rows replace earlier ones."""
    return {tuple(row[name] for name in KEY): row for row in rows}


def means(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """Returns each gallery's mean over parts; [] if there are no parts."""
    found = []
    for gallery in dict.fromkeys(row["gallery"] for row in rows):
        parts = [row for row in rows if row["gallery"] == gallery]
        if parts[0]["split"] == split:
            continue
        mean = parts[0] | {"split": split}
        for name in ("queries", "documents", "seconds", "excluded"):
            mean[name] = round(sum(row[name] for row in parts), 3)
        for name, _, _ in DEFINITIONS:
            values = [row[name] for row in parts if row[name] is not None]
            mean[name] = float(np.mean(values)) if values else None
        found.append(mean)
    return found


def _top(found: np.ndarray, k: int) -> np.ndarray:
    if found.shape[1] < k:
        raise ValueError(
            f"The top {k} were requested, but `found` has shape {found.shape}."
        )
    return found[:, :k]


def _mean_precision(positions: np.ndarray, mask: np.ndarray, cut: bool) -> Mean:
    values = average_precision(positions, cut=cut)
    return _mean(values, mask & (positions > 0).any(axis=1))


def average_precision(
    positions: np.ndarray, *, cut: bool = False
) -> np.ndarray:
    """Returns each query's average precision, f64 `[Q]`; 0 if undefined.

    Args:
      positions: see `mean_average_precision`.
      cut: whether to cut off the ranking at R; see
        `mean_average_precision_at_r`.
    """
    count = (positions > 0).sum(axis=1)
    last = np.iinfo(positions.dtype).max
    ranked = np.sort(np.where(positions > 0, positions, last), axis=1)
    counted = ranked < last
    if cut:
        counted &= ranked <= count[:, None]
    precision = np.arange(1, positions.shape[1] + 1)[None, :] / ranked
    total = np.where(counted, precision, 0.0).sum(axis=1)
    return total / np.maximum(count, 1)
