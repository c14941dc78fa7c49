"""Finds the categories of a click log: graph, clusters, splitting, merging.

Only clicks and content are used, never true categories.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.categories.clustering import knee, methods
from mixer_jax.categories.clustering.contents import join_copies, same_contents
from mixer_jax.categories.clustering.kmeans import kmeans
from mixer_jax.categories.clustering.merging import merge, mutual_best
from mixer_jax.categories.evidence import affinity, graph
from mixer_jax.categories.settings import Settings

# The threshold as a fraction of the affinity at the knee. For most samples, the
# nearest neighbor is closer than the knee, but some members of the same
# category are farther away.
_OF_KNEE = 0.55
# Bounds on a threshold chosen from the data. An affinity is nearly a
# probability, so a threshold far from 0.5 is implausible.
_BOUNDS = (0.4, 0.6)


@dataclasses.dataclass(frozen=True)
class Found:
    """Found categories, and two baselines.

    Attributes:
      combined: labels `[Q + I]` int64, queries first; -1 is noise.
      clicks_alone, content_alone: likewise, baselines from one source only.
      dense: likewise, the initial clusters, before splitting and merging.
      merges: cause (copies, clicks or content) -> number of merges.
      rates: the click rates fitted to the log.
      chosen: settings chosen from the data: name -> value.
      curve: the k-distance curve from which `threshold` was chosen, see `knee`;
        empty if `threshold` was not chosen.
    """

    combined: np.ndarray
    clicks_alone: np.ndarray
    content_alone: np.ndarray
    dense: np.ndarray
    merges: dict[str, int]
    rates: affinity.Rates
    chosen: dict[str, float] = dataclasses.field(default_factory=dict)
    curve: dict[str, tuple[float, ...]] = dataclasses.field(
        default_factory=dict
    )


def find_categories(
    features: graph.Features,
    clicks: pd.DataFrame,
    settings: Settings,
    mesh: Mesh | None = None,
    phase: Callable[[str], None] = lambda name: None,
) -> Found:
    """Finds the categories of Q queries and I items.

    Args:
      features: features of the samples.
      clicks: columns query, item (rows of the features), exposures, clicks;
        pairs are unique.
      settings: see `Settings`.
      mesh: devices for the neighbor search; all by default.
      phase: called with the name of each phase as it begins: "neighbors",
        "evidence", "clusters", "splitting", "merging" and, for the baselines,
        "halves".

    Raises:
      UserError: if a setting is out of range.
    """
    settings.check()
    pairs, evidence = weigh_pairs(features, clicks, settings, mesh, phase)
    return group(features, pairs, evidence, settings, mesh, phase)


def help_searching(
    features: graph.Features,
    clicks: pd.DataFrame,
    settings: Settings,
    mesh: Mesh,
) -> None:
    """Takes part in the searches of `find_categories` in another process.

    Call it with the same arguments in all processes of the mesh but one.
    """
    clicks = clicks[clicks["exposures"] > 0]
    graph.build_pairs(features, clicks, settings.neighbors, mesh)
    if settings.method == "kmeans":
        kmeans(graph.images(features), settings.k, mesh=mesh)


def weigh_pairs(
    features: graph.Features,
    clicks: pd.DataFrame,
    settings: Settings,
    mesh: Mesh | None = None,
    phase: Callable[[str], None] = lambda name: None,
) -> tuple[graph.Pairs, affinity.Evidence]:
    """Runs the steps of `find_categories` that ignore clustering settings."""
    phase("neighbors")
    clicks = clicks[clicks["exposures"] > 0]
    pairs = graph.build_pairs(features, clicks, settings.neighbors, mesh)
    phase("evidence")
    return pairs, affinity.weigh(pairs, features.samples, settings.trust)


def group(
    features: graph.Features,
    pairs: graph.Pairs,
    evidence: affinity.Evidence,
    settings: Settings,
    mesh: Mesh | None = None,
    phase: Callable[[str], None] = lambda name: None,
) -> Found:
    """Runs the steps of `find_categories` that follow `weigh_pairs`."""
    phase("clusters")
    nodes = features.samples
    settings, chosen, curve = _choose(settings, pairs, evidence, nodes)
    if settings.method == "kmeans":
        dense = kmeans(graph.images(features), settings.k, mesh=mesh)
    else:
        dense = _cluster(settings, pairs, evidence.affinity, nodes)
    phase("splitting")
    whole = methods.split(
        dense,
        pairs.first,
        pairs.second,
        evidence.affinity,
        threshold=settings.cohesion,
        max_size=settings.max_size,
    )
    phase("merging")
    whole, copies = _join_copies(whole, pairs, features)
    combined, merges = merge(
        whole,
        pairs,
        evidence,
        settings.neighbors,
        settings.merging,
        settings.max_size,
    )
    phase("halves")
    alone = dataclasses.replace(
        settings, method="dbscan", threshold=settings.clicks_threshold
    )
    by_content = content_only(pairs, nodes, settings.content_threshold)
    return Found(
        combined=combined,
        clicks_alone=_cluster(alone, pairs, evidence.clicked, nodes),
        content_alone=_cluster(alone, pairs, by_content, nodes),
        dense=dense,
        merges={"copies": copies, **merges},
        rates=evidence.rates,
        chosen=chosen,
        curve=curve,
    )


def _choose(
    settings: Settings,
    pairs: graph.Pairs,
    evidence: affinity.Evidence,
    nodes: int,
) -> tuple[Settings, dict[str, float], dict[str, tuple[float, ...]]]:
    """Returns complete settings, the values chosen, and the curve used."""
    chosen: dict[str, float] = {}
    curve: dict[str, tuple[float, ...]] = {}
    if settings.method == "kmeans":
        if not settings.k:
            chosen["k"] = max(nodes // settings.mean_size, 1)
    elif settings.threshold is None:
        found = knee.find_knee(
            pairs.first,
            pairs.second,
            evidence.affinity,
            nodes,
            k=settings.min_samples - 1,
        )
        threshold = np.clip(_OF_KNEE * found.threshold, *_BOUNDS)
        chosen["threshold"] = round(float(threshold), 4)
        curve = {
            "share": found.share,
            "affinity": found.affinity,
            "knee": (found.threshold,),
        }
    return dataclasses.replace(settings, **chosen), chosen, curve


def _cluster(
    settings: Settings, pairs: graph.Pairs, value: np.ndarray, nodes: int
) -> np.ndarray:
    """Returns labels `[N]` by one of the graph-based methods."""
    given = {"threshold": settings.threshold}
    if settings.method != "components":
        given["min_samples"] = settings.min_samples
    if settings.method == "hdbscan":
        # `split` would separate pairs below `cohesion` again.
        given["floor"] = min(settings.cohesion, settings.threshold)
    return getattr(methods, settings.method)(
        pairs.first, pairs.second, value, nodes, **given
    )


def _join_copies(
    labels: np.ndarray, pairs: graph.Pairs, features: graph.Features
) -> tuple[np.ndarray, int]:
    """Joins clusters of copies; returns labels `[N]` and number of joins."""
    same = same_contents(pairs, features)
    labels = methods.alone(labels)
    is_query = np.arange(len(labels)) < len(features.query_image)
    joined = join_copies(
        labels, is_query, pairs.first[same], pairs.second[same]
    )
    count = len(np.unique(labels)) - len(np.unique(joined))
    return methods.without_single(joined), count


def content_only(
    pairs: graph.Pairs, nodes: int, threshold: float
) -> np.ndarray:
    """Returns `[P]`: 1 for pairs that content alone would join, else 0.

    A query and an item are joined if each is the nearest neighbor of the other
    by margin; two samples of one role are joined if their cosine is at least
    `threshold`.
    """
    across = pairs.kind == graph.QUERY_ITEM
    margin = np.where(across, pairs.content[:, 1], np.nan)
    margin = np.where(np.isnan(margin), -np.inf, margin)
    mutual = mutual_best(pairs.first, pairs.second, margin, nodes)
    mutual &= np.isfinite(margin)
    return (mutual | (~across & (pairs.content[:, 0] >= threshold))).astype(
        float
    )
