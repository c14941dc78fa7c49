"""k-means on unit vectors, with exact search; shards centers over devices."""

import numpy as np
from jax.sharding import Mesh

from mixer_jax.categories.clustering.methods import without_single
from mixer_jax.runtime.arrays import normalize
from mixer_jax.search.neighbors import cosine_top_k


def kmeans(
    rows: np.ndarray,
    k: int,
    *,
    rounds: int = 5,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Clusters unit vectors around k mean directions.

    Dhillon and Modha, "Concept Decompositions for Large Sparse Text Data Using
    Clustering" (2001). The initial centers are k of the rows, drawn at random.

    Args:
      rows: `[N, C]` float32 of unit length; zeros for unknown samples.
      k: number of clusters; limited to the number of known rows.
      rounds: maximum number of updates of the centers.
      seed: seed of the draw.
      mesh: devices for the search; all by default.

    Returns:
      Labels `[N]` int64 from 0; -1 for samples that are unknown or alone.
    """
    known = np.flatnonzero(rows.any(axis=1))
    labels = np.full(len(rows), -1, np.int64)
    if not len(known):
        return labels
    vectors = rows[known]
    rng = np.random.default_rng(seed)
    begin = rng.permutation(len(known))[: max(k, 1)]
    centers = vectors[np.sort(begin)]
    nearest = np.full(len(known), -1, np.int64)
    for _ in range(rounds):
        before = nearest
        nearest = cosine_top_k(vectors, centers, 1, mesh=mesh)[0][:, 0]
        if (nearest == before).all():
            break
        # A center without samples remains unchanged.
        order = np.argsort(nearest, kind="stable")
        held, start = np.unique(nearest[order], return_index=True)
        centers = centers.copy()
        centers[held] = normalize(
            np.add.reduceat(vectors[order], start, axis=0)
        )
    labels[known] = nearest
    return without_single(labels)
