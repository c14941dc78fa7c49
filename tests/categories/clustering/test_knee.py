import numpy as np
import pytest

from mixer_jax.categories.clustering.knee import find_knee


def _disjoint_pairs(values):
    """Returns one disjoint pair of nodes per affinity."""
    first = 2 * np.arange(len(values))
    return first, first + 1, np.asarray(values, float), 2 * len(values)


def test_the_knee_is_where_the_curve_drops():
    # 90% of the samples have a match of 0.8 or more, the others far less.
    values = np.append(np.linspace(1.0, 0.8, 900), np.linspace(0.3, 0.0, 100))
    found = find_knee(*_disjoint_pairs(values))
    assert 0.7 < found.threshold <= 0.82
    assert len(found.share) == len(found.affinity) == 101
    assert list(found.affinity) == sorted(found.affinity, reverse=True)


def test_the_curve_uses_the_kth_neighbor():
    # Triangles: each node's second-largest affinity is 0.4.
    count = 50
    node = 3 * np.arange(count)
    first = np.concatenate([node, node, node + 1])
    second = np.concatenate([node + 1, node + 2, node + 2])
    value = np.repeat([0.9, 0.4, 0.4], count)
    value[-5:] = 0.1
    nearest = find_knee(first, second, value, 3 * count, k=1)
    assert nearest.affinity[0] == 0.9
    second_best = find_knee(first, second, value, 3 * count, k=2)
    assert second_best.affinity[0] == 0.4
    assert second_best.affinity[-1] == pytest.approx(0.1)
    assert second_best.threshold == pytest.approx(0.4)


def test_empty_and_flat_curves():
    none = np.zeros(0, np.int64)
    found = find_knee(none, none, np.zeros(0), 4)
    assert found.threshold == 1.0
    assert found.share == ()
    flat = find_knee(*_disjoint_pairs([0.5] * 9))
    assert flat.threshold == 0.5
