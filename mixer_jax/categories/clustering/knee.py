"""Finds the knee of a curve: where DBSCAN's threshold may be left out.

Sorted by the distance to their k-th nearest neighbour, samples of categories
come first, along a low curve; then it rises steeply, to those that nothing is
near. The knee between is where Ester et al. (DBSCAN, 1996) read the threshold
off by eye.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Knee:
    """A knee, and the curve that it is of.

    Attributes:
      least: the affinity at the knee.
      share: `[n]` rising, 0 to 1: share of the samples ...
      affinity: `[n]` falling: ... whose k-th nearest is as near as this.
    """

    least: float
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
      first: `[P]` int, the one node of each pair.
      second: `[P]` int, the other; a pair stands once.
      affinity: `[P]` in 0..1.
      nodes: N.
      k: which neighbour's affinity is looked at, from 1.
      points: of the curve; fewer samples make it no finer.
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
    """Each node's k-th largest affinity `[N]`; 0 where it has fewer."""
    node = np.concatenate([first, second])
    value = np.tile(affinity, 2)
    order = np.lexsort((-value, node))
    count = np.bincount(node, minlength=nodes)
    place = np.cumsum(count) - count + k - 1
    out = np.zeros(nodes)
    out[count >= k] = value[order[place[count >= k]]]
    return out
