"""Finds the categories of a click log: graph, DBSCAN, splitting, merging.

Nothing here takes a truth: categories are found from clicks and content alone.
"""

import dataclasses

import numpy as np
import pandas as pd

from mixer_jax.categories import affinity, graph
from mixer_jax.categories.clustering import dbscan, split
from mixer_jax.categories.merging import Merging, merge


@dataclasses.dataclass(frozen=True)
class Settings:
    """How categories are found; the defaults suit any log.

    Attributes:
      neighbours: k, of each sample by content within each role.
      least: affinity from which two samples are neighbours for DBSCAN.
      cohesion: mean affinity from which parts of a DBSCAN cluster stay one.
      min_samples: of DBSCAN; 2 lets a category have two samples.
      clicks_least: the same threshold where clicks alone are used.
      content_least: cosine from which two samples of one role are neighbours
        where content alone is used; nearer than most variants of a drawing.
      trust: how clicks and content are weighed.
      merging: when two clusters are one.
    """

    neighbours: int = 10
    least: float = 0.35
    cohesion: float = 0.15
    min_samples: int = 2
    clicks_least: float = 0.45
    content_least: float = 0.95
    trust: affinity.Trust = dataclasses.field(default_factory=affinity.Trust)
    merging: Merging = dataclasses.field(default_factory=Merging)


@dataclasses.dataclass(frozen=True)
class Found:
    """Categories, and those of two simpler ways.

    Attributes:
      combined: labels `[Q + I]` int64, queries first; -1 is noise.
      clicks_alone, content_alone: the same from half of the evidence.
      dense: the same as DBSCAN left it, before splitting and merging.
      merges: how many merges clicks and content made in `combined`.
      rates: the click rates that the log taught.
    """

    combined: np.ndarray
    clicks_alone: np.ndarray
    content_alone: np.ndarray
    dense: np.ndarray
    merges: dict[str, int]
    rates: affinity.Rates


def find_categories(
    features: graph.Features, clicks: pd.DataFrame, settings: Settings
) -> Found:
    """Finds categories of Q queries and I items.

    Args:
      features: what the samples show.
      clicks: columns query, item (rows of the features), exposures, clicks;
        each pair stands once.
      settings: see `Settings`.
    """
    nodes = len(features.query_image) + len(features.item_image)
    clicks = clicks[clicks["exposures"] > 0]
    pairs = graph.build_pairs(features, clicks, settings.neighbours)
    evidence = affinity.weigh(pairs, nodes, settings.trust)

    def cluster(value: np.ndarray, least: float) -> np.ndarray:
        return dbscan(
            pairs.first,
            pairs.second,
            value,
            nodes,
            least=least,
            min_samples=settings.min_samples,
        )

    dense = cluster(evidence.affinity, settings.least)
    whole = split(
        dense,
        pairs.first,
        pairs.second,
        evidence.affinity,
        least=settings.cohesion,
    )
    combined, merges = merge(
        whole,
        pairs,
        evidence,
        settings.neighbours,
        settings.merging,
    )
    return Found(
        combined=combined,
        clicks_alone=cluster(evidence.clicked, settings.clicks_least),
        content_alone=cluster(
            content_only(pairs, nodes, settings.content_least), 0.5
        ),
        dense=dense,
        merges=merges,
        rates=evidence.rates,
    )


def content_only(pairs: graph.Pairs, nodes: int, least: float) -> np.ndarray:
    """1 for pairs that content alone would join, 0 for others, `[P]`.

    A query and an item are joined if each is the other's nearest by margin;
    two samples of one role if their cosine is `least` or more.
    """
    across = pairs.kind == graph.QUERY_ITEM
    margin = np.where(across, pairs.content[:, 1], np.nan)
    margin = np.where(np.isnan(margin), -np.inf, margin)
    best = np.full(nodes, -np.inf)
    np.maximum.at(best, pairs.first, margin)
    np.maximum.at(best, pairs.second, margin)
    mutual = np.isfinite(margin)
    mutual &= (margin == best[pairs.first]) & (margin == best[pairs.second])
    return (mutual | (~across & (pairs.content[:, 0] >= least))).astype(float)
