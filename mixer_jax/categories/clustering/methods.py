"""Clustering methods for a sparse affinity graph, and splitting of chains.

Pairs missing from the graph are far apart. DBSCAN, HDBSCAN and connected
components take the same graph, so a config can choose between them.
"""

import heapq

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN, HDBSCAN

_FAR = 1.0  # distance between unconnected samples


def dbscan(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    *,
    threshold: float,
    min_samples: int = 2,
) -> np.ndarray:
    """Clusters nodes by density; missing pairs are far apart.

    Args:
      first: `[P]` int, one node of each pair.
      second: `[P]` int, the other node; pairs are unique.
      affinity: `[P]` in [0, 1]; distance = 1 - affinity.
      nodes: N.
      threshold: affinity threshold for two nodes to be neighbors.
      min_samples: number of neighbors, including itself, that makes a node a
        core point; use 2 if a category may have two samples.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise.
    """
    graph = _distances(first, second, affinity, nodes, threshold)
    model = DBSCAN(
        eps=1.0 - threshold + 1e-6,
        min_samples=min_samples,
        metric="precomputed",
    )
    return model.fit(graph).labels_.astype(np.int64)


def components(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    *,
    threshold: float,
) -> np.ndarray:
    """Returns connected components of the pairs with affinity >= `threshold`.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise, i.e. isolated samples.
    """
    graph = _distances(first, second, affinity, nodes, threshold)
    _, labels = connected_components(graph, directed=False)
    return without_single(labels)


def hdbscan(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    *,
    threshold: float,
    floor: float = 0.0,
    min_samples: int = 2,
) -> np.ndarray:
    """Finds the most persistent clusters over thresholds from 1 to `floor`.

    Campello et al., "Density-Based Clustering Based on Hierarchical Density
    Estimates" (2013): each cluster has its own threshold. Clusters connected at
    `threshold` are joined regardless, as in Malzer and Baum (arXiv 1911.02282);
    otherwise the tightest pairs of a category would be separate clusters.

    Args:
      first: `[P]` int, one node of each pair.
      second: `[P]` int, the other node; pairs are unique.
      affinity: `[P]` in [0, 1]; distance = 1 - affinity.
      nodes: N.
      threshold: affinity threshold for two samples to stay together.
      floor: pairs with a lower affinity are far apart.
      min_samples: as for `dbscan`; also the minimum cluster size.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise.
    """
    graph = _distances(first, second, affinity, nodes, floor)
    # The sparse graph does not count a sample as its own neighbor.
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
    # HDBSCAN needs a connected graph: chain the components at distance `_FAR`.
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
    tied = (
        (affinity >= threshold) & (labels[first] >= 0) & (labels[second] >= 0)
    )
    labels = alone(labels)
    labels = join(labels, labels[first[tied]], labels[second[tied]])
    return without_single(labels)


def _distances(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    threshold: float,
) -> sparse.csr_matrix:
    """Returns distances `[N, N]` of the pairs with affinity >= `threshold`."""
    near = (affinity >= threshold) & (first != second)
    # A stored zero would count as a missing entry, so keep distances positive.
    distance = np.maximum(1.0 - affinity[near], 1e-6)
    row = np.concatenate([first[near], second[near]])
    column = np.concatenate([second[near], first[near]])
    graph = sparse.csr_matrix(
        (np.tile(distance, 2), (row, column)), shape=(nodes, nodes)
    )
    graph.sort_indices()
    return graph


def join(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns labels `[N]` after joining clusters a and b `[P]` pairwise."""
    nodes = labels.max(initial=-1) + 1
    graph = sparse.csr_array((np.ones(len(a)), (a, b)), shape=(nodes, nodes))
    _, joined = connected_components(graph, directed=False)
    return joined[labels].astype(np.int64)


def without_single(labels: np.ndarray) -> np.ndarray:
    """Returns labels `[N]` from 0, with singleton clusters as noise (-1)."""
    labels = np.asarray(labels, np.int64)
    size = np.bincount(labels[labels >= 0], minlength=1)
    several = (labels >= 0) & (size[labels] > 1)
    out = np.full(len(labels), -1, np.int64)
    out[several] = np.unique(labels[several], return_inverse=True)[1]
    return out


def alone(labels: np.ndarray) -> np.ndarray:
    """Returns labels `[N]` in which every noise sample is its own cluster."""
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
    threshold: float,
    max_size: int = 0,
) -> np.ndarray:
    """Splits clusters that are connected by only a few stray pairs.

    DBSCAN follows chains: one misleading click joins two large categories.
    Each cluster is therefore rebuilt by average linkage: starting from single
    samples, the two parts with the highest mean affinity are joined, as long as
    this mean is at least `threshold`. The mean is over the given pairs, as the
    affinity of other pairs is unknown.

    Args:
      labels: `[N]` int; -1 is noise.
      first: `[P]` int, one node of each pair.
      second: `[P]` int, the other node; pairs are unique.
      affinity: `[P]` in [0, 1].
      threshold: mean affinity threshold for joining two parts.
      max_size: maximum number of samples per part; 0 for no limit. A larger
        cluster is split at its weakest links.

    Returns:
      Labels `[N]` int64 from 0; -1 is noise.
    """
    inside = (labels[first] == labels[second]) & (labels[first] >= 0)
    inside &= first != second
    # part -> other part -> (total affinity, count) of the pairs between them
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
    queue = [entry for entry in queue if -entry[0] >= threshold]
    heapq.heapify(queue)
    while queue:
        _, a, b, size_a, size_b = heapq.heappop(queue)
        # An entry is stale once either part has grown or been absorbed.
        if len(parts.get(a, ())) != size_a or len(parts.get(b, ())) != size_b:
            continue
        if max_size and size_a + size_b > max_size:
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
            if total / count >= threshold:
                sizes = len(parts[a]), len(parts[other])
                heapq.heappush(queue, (-total / count, a, other, *sizes))
    out = np.full(len(labels), -1, np.int64)
    kept = [nodes for nodes in parts.values() if len(nodes) > 1]
    for label, nodes in enumerate(sorted(kept, key=min)):
        out[nodes] = label
    return out
