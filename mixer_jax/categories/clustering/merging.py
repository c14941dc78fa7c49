"""Merges clusters of the same category, by pooled clicks and by content.

A pair of samples may have been shown too rarely to be conclusive even though
their clusters were shown together often, so evidence is summed over clusters. A
sample that DBSCAN left as noise counts as a cluster of one, so that rarely
shown items can be merged into their category.
"""

import dataclasses

import numpy as np
from scipy.special import expit

from mixer_jax.categories.clustering.methods import alone, join, without_single
from mixer_jax.categories.evidence.affinity import (
    Evidence,
    best_of_nodes,
    log_odds,
    relative_to_best,
)
from mixer_jax.categories.evidence.graph import QUERY_ITEM, Pairs


@dataclasses.dataclass(frozen=True)
class Merging:
    """Thresholds for merging two clusters.

    Attributes:
      rounds: maximum number of rounds; each builds on the previous merges.
      clicks: threshold on the affinity from pooled clicks and mean content.
      content: threshold on the mean affinity over all possible pairs of two
        clusters; pooled clicks can veto the merge.
    """

    rounds: int = 3
    clicks: float = 0.5
    content: float = 0.5


def merge(
    labels: np.ndarray,
    pairs: Pairs,
    evidence: Evidence,
    neighbors: int,
    settings: Merging,
    max_size: int = 0,
) -> tuple[np.ndarray, dict[str, int]]:
    """Merges clusters that are each other's best match.

    Args:
      labels: `[N]` int, -1 is noise.
      pairs: P pairs of samples.
      evidence: evidence on those pairs.
      neighbors: k of `build_pairs`, the limit on content pairs per sample.
      settings: see `Merging`.
      max_size: maximum number of samples per merged cluster; 0 for no limit.

    Returns:
      New labels `[N]`, -1 for samples without a cluster, and the numbers of
      merges by clicks and by content.
    """
    labels = alone(labels)
    made = {"clicks": 0, "content": 0}
    for _ in range(settings.rounds):
        count = sum(made.values())
        for name, score in (
            ("clicks", _pooled_clicks),
            ("content", _mean_content),
        ):
            a, b, value = score(labels, pairs, evidence, neighbors)
            chosen = mutual_best(a, b, value, labels.max() + 1)
            chosen &= value >= getattr(settings, name)
            a, b = a[chosen], b[chosen]
            if max_size:
                small = _size_if_joined(labels, a, b) <= max_size
                a, b = a[small], b[small]
            labels = join(labels, a, b)
            made[name] += len(a)
        if sum(made.values()) == count:
            break
    return without_single(labels), made


def _pooled_clicks(
    labels: np.ndarray, pairs: Pairs, evidence: Evidence, neighbors: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cluster pairs shown together, and their affinity."""
    del neighbors  # `pairs` includes all pairs shown
    shown = (pairs.kind == QUERY_ITEM) & (pairs.exposures > 0)
    a, b, group = _groups(labels, pairs.where(shown))
    exposures = np.bincount(group, pairs.exposures[shown])
    clicks = np.bincount(group, pairs.clicks[shown])
    content = np.bincount(group, evidence.content[shown]) / np.bincount(group)
    wrong_a, wrong_b = evidence.rates.wrong
    rate = (clicks + wrong_a) / (exposures + wrong_a + wrong_b)
    sure = expit(log_odds(exposures, clicks, evidence.rates) + content)
    # Keep pairs within a cluster: matches are rated relative to them.
    nodes = labels.max() + 1
    sure *= relative_to_best(rate, a, b, nodes)
    sure *= relative_to_best(sure, a, b, nodes)
    other = a != b
    return a[other], b[other], sure[other]


def _mean_content(
    labels: np.ndarray, pairs: Pairs, evidence: Evidence, neighbors: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns cluster pairs and their mean affinity from content."""
    a, b, group = _groups(labels, pairs)
    silent = pairs.exposures == 0
    total = np.bincount(group, np.where(silent, evidence.affinity, 0.0))
    exposures = np.bincount(group, pairs.exposures)
    clicks = np.bincount(group, pairs.clicks)
    size = np.bincount(labels)
    small = np.minimum(size[a], size[b])
    possible = np.minimum(size[a] * size[b], neighbors * small)
    against = (exposures > 0) & (
        log_odds(exposures, clicks, evidence.rates) < 0
    )
    value = np.where(against, 0.0, total / possible)
    other = a != b
    return a[other], b[other], value[other]


def _groups(
    labels: np.ndarray, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns cluster pairs (a <= b), and the index of each pair's clusters."""
    first, second = labels[pairs.first], labels[pairs.second]
    nodes = labels.max() + 1
    codes = np.minimum(first, second) * nodes + np.maximum(first, second)
    codes, group = np.unique(codes, return_inverse=True)
    return codes // nodes, codes % nodes, group


def mutual_best(
    a: np.ndarray, b: np.ndarray, value: np.ndarray, nodes: int
) -> np.ndarray:
    """Returns a mask `[P]` of the pairs that are best for both nodes."""
    best = best_of_nodes(value, a, b, nodes)
    return (value == best[a]) & (value == best[b])


def _size_if_joined(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """Returns the size `[P]` of each pair's cluster once all are joined."""
    size = np.bincount(labels)
    joined = join(np.arange(len(size)), a, b)
    return np.bincount(joined, size)[joined[a]]
