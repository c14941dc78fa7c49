import numpy as np

from mixer_jax.categories.clustering import alone, dbscan, split


def _pairs(rows):
    first, second, value = zip(*rows, strict=True)
    return np.array(first), np.array(second), np.array(value, float)


def test_dbscan_joins_what_is_near():
    pairs = _pairs([(0, 1, 1.0), (1, 2, 0.6), (3, 4, 0.4), (5, 6, 0.5)])
    labels = dbscan(*pairs, 8, least=0.5)
    assert labels.tolist() == [0, 0, 0, -1, -1, 1, 1, -1]


def test_dbscan_of_no_pairs_is_noise():
    none = np.zeros(0, np.int64)
    labels = dbscan(none, none, np.zeros(0), 3, least=0.5)
    assert labels.tolist() == [-1, -1, -1]


def test_dbscan_wants_density():
    pairs = _pairs([(0, 1, 0.9), (2, 3, 0.9), (3, 4, 0.9), (2, 4, 0.9)])
    labels = dbscan(*pairs, 5, least=0.5, min_samples=3)
    assert labels.tolist() == [-1, -1, 0, 0, 0]


def test_split_cuts_a_stray_bridge():
    ring = [(a, b, 0.8) for a in range(4) for b in range(a + 1, 4)]
    twin = [(a + 4, b + 4, value) for a, b, value in ring]
    between = [(a, b, 0.01) for a in range(4) for b in range(4, 8)]
    between[0] = (0, 4, 0.6)
    pairs = _pairs(ring + twin + between)
    chained = dbscan(*pairs, 9, least=0.5)
    assert chained.tolist() == [0] * 8 + [-1]
    labels = split(chained, *pairs, least=0.2)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [-1]


def test_split_joins_by_the_mean_over_known_pairs():
    pairs = _pairs([(0, 1, 0.9), (1, 2, 0.5), (0, 2, 0.1)])
    one = np.zeros(3, np.int64)
    assert split(one, *pairs, least=0.3).tolist() == [0, 0, 0]
    assert split(one, *pairs, least=0.31).tolist() == [0, 0, -1]


def test_split_keeps_clusters_apart_and_noise_alone():
    pairs = _pairs([(0, 1, 0.9), (2, 3, 0.9), (1, 2, 0.9), (3, 4, 0.9)])
    labels = split(np.array([5, 5, 2, 2, -1]), *pairs, least=0.1)
    assert labels.tolist() == [0, 0, 1, 1, -1]


def test_alone_numbers_noise():
    assert alone(np.array([1, -1, 0, -1])).tolist() == [1, 2, 0, 3]
    assert alone(np.array([-1, -1])).tolist() == [0, 1]
