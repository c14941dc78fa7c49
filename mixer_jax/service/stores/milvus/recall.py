"""The recall of an approximate index, against exact search."""

import random
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

K = 10
_QUERIES = 64  # stored vectors to use as queries
_ERROR = 1e-5  # of a cosine in float32


class Recall(NamedTuple):
    """A measured recall.

    Attributes:
      share: the mean share of the `K` nearest vectors that were found; equally
        near vectors count as well.
      queries: the number of queries.
      vectors: the number of vectors searched.
    """

    share: float
    queries: int
    vectors: int

    def __str__(self) -> str:
        """Returns the recall for a message."""
        return (
            f"recall@{K} {self.share:.3f} ({self.queries} stored vectors among "
            f"{self.vectors:,})"
        )


def sample(keys: Iterable[str]) -> list[str]:
    """Returns at most `_QUERIES` random keys, always the same ones."""
    rng, kept = random.Random(0), []
    for count, key in enumerate(keys):
        if count < _QUERIES:
            kept.append(key)
        elif (place := rng.randrange(count + 1)) < _QUERIES:
            kept[place] = key
    return kept


def measure(
    queries: np.ndarray,
    found: np.ndarray,
    parts: Iterable[np.ndarray],
) -> Recall:
    """Compares the cosines that a search found with those of all vectors.

    Args:
      queries: f32 `[Q, D]`, unit rows.
      found: f32 `[Q, K]`, the cosines that the search found, -inf for none.
      parts: all vectors, f32 `[n, D]` each, unit rows.
    """
    best = np.full((len(queries), K), -np.inf, np.float32)
    total = 0
    for part in parts:
        both = np.concatenate([best, queries @ part.T], axis=1)
        best = -np.partition(-both, K - 1, axis=1)[:, :K]
        total += len(part)
    k = min(K, total)
    if not k or not len(queries):
        return Recall(1.0, len(queries), total)
    least = np.sort(best, axis=1)[:, -k] - _ERROR
    hits = (found >= least[:, None]).sum(axis=1)
    return Recall(float(np.minimum(hits / k, 1).mean()), len(queries), total)
