"""Clusters of a sparse graph of affinities, and what takes chains apart.

Pairs that are not given are far apart. DBSCAN, HDBSCAN and connected components
take the same graph, so a config can choose between them.
"""

import heapq

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN, HDBSCAN

_FAR = 1.0  # distance of samples that nothing ties


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
    graph = _distances(first, second, affinity, nodes, least)
    model = DBSCAN(
        eps=1.0 - least + 1e-6, min_samples=min_samples, metric="precomputed"
    )
    return model.fit(graph).labels_.astype(np.int64)


def components(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    *,
    least: float,
) -> np.ndarray:
    """Connected components of the pairs whose affinity is `least` or more.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise: a sample that nothing ties.
    """
    graph = _distances(first, second, affinity, nodes, least)
    _, labels = connected_components(graph, directed=False)
    return without_single(labels)


def hdbscan(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    *,
    least: float,
    floor: float = 0.0,
    min_samples: int = 2,
) -> np.ndarray:
    """Clusters of the longest life as the threshold falls from 1 to `floor`.

    Campello et al., "Density-Based Clustering Based on Hierarchical Density
    Estimates" (2013): each cluster finds a threshold of its own. What `least`
    ties is joined all the same, as Malzer and Baum do (arXiv 1911.02282): else
    the tightest pairs of a category would be clusters of their own.

    Args:
      first: `[P]` int, the one node of each pair.
      second: `[P]` int, the other; a pair stands once.
      affinity: `[P]` in 0..1; the distance is 1 less it.
      nodes: N.
      least: affinity from which two samples stay together.
      floor: pairs below it are far apart.
      min_samples: as of `dbscan`; also the smallest cluster's size.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise.
    """
    graph = _distances(first, second, affinity, nodes, floor)
    # A stored graph does not count a sample as its own neighbour.
    needed = max(min_samples - 1, 1)
    dense = np.arange(nodes)
    while True:
        enough = np.diff(graph.indptr) >= needed
        if enough.all():
            break
        dense, graph = dense[enough], graph[enough][:, enough]
    labels = np.full(nodes, -1, np.int64)
    if len(dense) < 2:
        return labels
    # It wants one piece: pieces are hung one on another, far apart.
    _, piece = connected_components(graph, directed=False)
    _, one = np.unique(piece, return_index=True)
    chain = sparse.coo_matrix(
        (np.full(len(one) - 1, _FAR), (one[:-1], one[1:])), shape=graph.shape
    )
    model = HDBSCAN(
        min_cluster_size=max(min_samples, 2),
        min_samples=needed,
        metric="precomputed",
        algorithm="brute",
        allow_single_cluster=len(one) == 1,
        copy=True,
    )
    labels[dense] = model.fit((graph + chain + chain.T).tocsr()).labels_
    tied = (affinity >= least) & (labels[first] >= 0) & (labels[second] >= 0)
    labels = alone(labels)
    labels = join(labels, labels[first[tied]], labels[second[tied]])
    return without_single(labels)


def _distances(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    least: float,
) -> sparse.csr_matrix:
    """Distances `[N, N]` of the pairs whose affinity is `least` or more."""
    near = (affinity >= least) & (first != second)
    # A stored zero would be read as absent, so distances stay above it.
    distance = np.maximum(1.0 - affinity[near], 1e-6)
    row = np.concatenate([first[near], second[near]])
    column = np.concatenate([second[near], first[near]])
    graph = sparse.csr_matrix(
        (np.tile(distance, 2), (row, column)), shape=(nodes, nodes)
    )
    graph.sort_indices()
    return graph


def join(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Labels `[N]` after the clusters a and b `[P]` have become one."""
    nodes = labels.max(initial=-1) + 1
    graph = sparse.csr_array((np.ones(len(a)), (a, b)), shape=(nodes, nodes))
    _, joined = connected_components(graph, directed=False)
    return joined[labels].astype(np.int64)


def without_single(labels: np.ndarray) -> np.ndarray:
    """Labels `[N]` from 0 of clusters of two or more; -1 is noise."""
    labels = np.asarray(labels, np.int64)
    size = np.bincount(labels[labels >= 0], minlength=1)
    several = (labels >= 0) & (size[labels] > 1)
    out = np.full(len(labels), -1, np.int64)
    out[several] = np.unique(labels[several], return_inverse=True)[1]
    return out


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
    most: int = 0,
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
      most: samples of a part; 0 is any number. A larger cluster so falls apart
        where it hangs together least.

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
        if most and size_a + size_b > most:
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
