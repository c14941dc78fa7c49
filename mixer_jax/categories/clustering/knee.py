"""Finds the knee of a k-distance curve, to choose DBSCAN's threshold.

The curve shows the samples sorted by the distance to their k-th nearest
neighbor. It is low for samples of categories, then rises steeply to isolated
samples. At the knee in between, Ester et al. (DBSCAN, 1996) read off the
threshold by eye.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Knee:
    """A knee and its curve.

    Attributes:
      threshold: the affinity at the knee.
      share: `[n]` ascending from 0 to 1, share of the samples with k neighbors.
      affinity: `[n]` descending; `share` of the samples have a k-th largest
        affinity of at least `affinity`.
    """

    threshold: float
    share: tuple[float, ...]
    affinity: tuple[float, ...]


def find_knee(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    *,
    k: int = 1,
    points: int = 101,
) -> Knee:
    """Finds the knee of the k-distance curve.

    Satopaa et al., "Finding a 'Kneedle' in a Haystack" (2011): scaled to the
    unit square, the knee is where the curve is farthest from its chord.

    Args:
      first: `[P]` int, one node of each pair.
      second: `[P]` int, the other node; pairs are unique.
      affinity: `[P]` in [0, 1].
      nodes: N.
      k: rank of the neighbor whose affinity is used, from 1.
      points: number of points of the curve, interpolated between samples.

    Returns:
      The knee; affinity 1 and an empty curve if fewer than two samples have k
      neighbors.
    """
    near = np.sort(_kth_best(first, second, affinity, nodes, k))[::-1]
    near = near[near > 0.0]
    if len(near) < 2:
        return Knee(1.0, (), ())
    share = np.linspace(0.0, 1.0, points)
    curve = np.interp(share, np.linspace(0.0, 1.0, len(near)), near)
    drop = (curve[0] - curve) / max(curve[0] - curve[-1], 1e-12)
    return Knee(
        float(curve[np.argmax(share - drop)]),
        tuple(np.round(share, 4).tolist()),
        tuple(np.round(curve, 4).tolist()),
    )


def _kth_best(
    first: np.ndarray,
    second: np.ndarray,
    affinity: np.ndarray,
    nodes: int,
    k: int,
) -> np.ndarray:
    """Returns each node's k-th largest affinity `[N]`; 0 if it has fewer."""
    node = np.concatenate([first, second])
    value = np.tile(affinity, 2)
    order = np.lexsort((-value, node))
    count = np.bincount(node, minlength=nodes)
    place = np.cumsum(count) - count + k - 1
    out = np.zeros(nodes)
    out[count >= k] = value[order[place[count >= k]]]
    return out
