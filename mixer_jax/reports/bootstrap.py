"""Paired bootstrap of the difference between two methods, over categories.

Queries of the same category are not independent: whether a category is easy
affects all of them. So whole categories are drawn, with replacement, and both
methods are compared on the same draws.
"""

from typing import NamedTuple

import numpy as np

ROUNDS = 2000
_BLOCK = 2**22  # drawn categories at once


class Difference(NamedTuple):
    """A difference of two means, with its 95% interval."""

    value: float
    low: float
    high: float


def draw(categories: int, rounds: int = ROUNDS, seed: int = 0) -> np.ndarray:
    """Returns how often each category is drawn per round, int64 [rounds, C]."""
    rng = np.random.default_rng(seed)
    shares = np.full(categories, 1 / categories)
    return rng.multinomial(categories, shares, size=rounds)


def compare(
    first: np.ndarray,
    second: np.ndarray,
    categories: np.ndarray,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Difference:
    """Returns the mean of `first - second` over queries, and its interval.

    Args:
      first: a score per query, f64 [Q], such as the share of seeds with the
        right answer.
      second: the other method's scores of the same queries, f64 [Q].
      categories: the queries' categories, int [Q].
      rounds: the number of bootstrap samples.
      seed: the random seed.

    Returns:
      The difference, with the 2.5th and the 97.5th percentile of the bootstrap
      samples.

    References:
      Efron, Tibshirani, "An Introduction to the Bootstrap", chapters 8 and 13.
    """
    _, code = np.unique(categories, return_inverse=True)
    difference = np.asarray(first, float) - np.asarray(second, float)
    total_C = np.bincount(code, difference)
    count_C = np.bincount(code)
    step, means = max(_BLOCK // len(count_C), 1), []
    for number, start in enumerate(range(0, rounds, step)):
        drawn = draw(
            len(count_C), min(step, rounds - start), seed=seed + number
        )
        means.append(drawn @ total_C / (drawn @ count_C))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Difference(float(difference.mean()), float(low), float(high))
