"""Finds categories at several granularities, to see which works best."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from mixer_jax.categories.evidence.graph import Features
from mixer_jax.categories.find import find_categories, group, weigh_pairs
from mixer_jax.categories.settings import Settings

# Affinity thresholds for neighbors; DBSCAN's eps = 1 - threshold.
THRESHOLDS = (0.15, 0.25, 0.35, 0.45, 0.55, 0.7, 0.85)
NEIGHBORS = (5, 10, 20)  # per sample and role


@dataclasses.dataclass(frozen=True)
class Point:
    """Categories at one granularity.

    Attributes:
      threshold, neighbors: the settings used.
      labels: `[Q + I]` int64, -1 for no category.
      seconds: time to find them.
    """

    threshold: float
    neighbors: int
    labels: np.ndarray
    seconds: float


def sweep(
    features: Features,
    clicks: pd.DataFrame,
    threshold: Sequence[float] = THRESHOLDS,
    neighbors: Sequence[int] = NEIGHBORS,
    settings: Settings | None = None,
) -> Iterator[Point]:
    """Yields the categories for each pair of settings.

    Args:
      features: features of Q queries and I items.
      clicks: as for `find_categories`.
      threshold: affinity thresholds to try.
      neighbors: values of k to try.
      settings: all other settings; the defaults if None.
    """
    settings = settings or Settings()
    for k in neighbors:
        shared = dataclasses.replace(settings, neighbors=k)
        start = time.perf_counter()
        pairs, evidence = weigh_pairs(features, clicks, shared)
        weighing = time.perf_counter() - start
        for affinity in threshold:
            start = time.perf_counter()
            found = group(
                features,
                pairs,
                evidence,
                dataclasses.replace(shared, threshold=affinity),
            )
            seconds = weighing + time.perf_counter() - start
            yield Point(affinity, k, found.combined, seconds)


def find_point(
    features: Features, clicks: pd.DataFrame, settings: Settings
) -> Point:
    """Finds categories with the given settings; arguments as for `sweep`."""
    start = time.perf_counter()
    found = find_categories(features, clicks, settings)
    threshold = settings.threshold
    if threshold is None:
        threshold = found.chosen["threshold"]
    seconds = time.perf_counter() - start
    return Point(threshold, settings.neighbors, found.combined, seconds)
