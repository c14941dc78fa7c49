"""DBSCAN on a sparse graph of affinities, and what takes its chains apart."""

import heapq

import numpy as np
from scipy import sparse
from sklearn.cluster import DBSCAN


def dbscan(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    *,
    least: float,
    min_samples: int = 2,
) -> np.ndarray:
    """Clusters nodes by density; pairs that are not given are far apart.

    Args:
      first: `[P]` int, the one node of each pair.
      second: `[P]` int, the other; a pair stands once.
      affinity: `[P]` in 0..1; the distance is 1 less it.
      nodes: N.
      least: pairs of this affinity or more are neighbours.
      min_samples: neighbours, itself included, that make a node the core of a
        cluster; 2 is right where a category may have two samples.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise.
    """
    near = (affinity >= least) & (first != second)
    # A stored zero would be read as absent, so distances stay above it.
    distance = np.maximum(1.0 - affinity[near], 1e-6)
    row = np.concatenate([first[near], second[near]])
    column = np.concatenate([second[near], first[near]])
    graph = sparse.csr_matrix(
        (np.tile(distance, 2), (row, column)), shape=(nodes, nodes)
    )
    graph.sort_indices()
    model = DBSCAN(
        eps=1.0 - least + 1e-6, min_samples=min_samples, metric="precomputed"
    )
    return model.fit(graph).labels_.astype(np.int64)


def alone(labels: np.ndarray) -> np.ndarray:
    """Labels `[N]` in which every noise sample is a cluster by itself."""
    labels = np.asarray(labels, np.int64).copy()
    noise = np.flatnonzero(labels < 0)
    labels[noise] = labels.max(initial=-1) + 1 + np.arange(len(noise))
    return labels


def split(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    *,
    least: float,
) -> np.ndarray:
    """Takes apart clusters that hang together by a few stray pairs only.

    DBSCAN follows chains: one misleading click joins two large categories.
    Here each of its clusters is built up again by average linkage: from single
    samples, the two parts of the highest mean affinity are joined, as long as
    it is `least` or more. The mean is over the pairs that are given; the others
    are unknown.

    Args:
      labels: `[N]` int; -1 is noise.
      first: `[P]` int, the one node of each pair.
      second: `[P]` int, the other; a pair stands once.
      affinity: `[P]` in 0..1.
      least: mean affinity of parts that stay together.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise.
    """
    inside = (labels[first] == labels[second]) & (labels[first] >= 0)
    inside &= first != second
    # Per part: its pairs' summed affinity and number, by the other part.
    links: dict[int, dict[int, tuple[float, int]]] = {}
    queue = []
    for a, b, value in zip(
        first[inside].tolist(),
        second[inside].tolist(),
        affinity[inside].tolist(),
        strict=True,
    ):
        links.setdefault(a, {})[b] = (value, 1)
        links.setdefault(b, {})[a] = (value, 1)
        queue.append((-value, a, b, 1, 1))
    parts = {node: [node] for node in links}
    queue = [entry for entry in queue if -entry[0] >= least]
    heapq.heapify(queue)
    while queue:
        _, a, b, size_a, size_b = heapq.heappop(queue)
        # An entry is stale once either part has grown or gone.
        if len(parts.get(a, ())) != size_a or len(parts.get(b, ())) != size_b:
            continue
        if len(links[a]) < len(links[b]):
            a, b = b, a
        parts[a] += parts.pop(b)
        del links[a][b]
        for other, (total, count) in links.pop(b).items():
            if other == a:
                continue
            del links[other][b]
            old_total, old_count = links[a].get(other, (0.0, 0))
            link = (old_total + total, old_count + count)
            links[a][other] = links[other][a] = link
        for other, (total, count) in links[a].items():
            if total / count >= least:
                sizes = len(parts[a]), len(parts[other])
                heapq.heappush(queue, (-total / count, a, other, *sizes))
    out = np.full(len(labels), -1, np.int64)
    kept = [nodes for nodes in parts.values() if len(nodes) > 1]
    for label, nodes in enumerate(sorted(kept, key=min)):
        out[nodes] = label
    return out
