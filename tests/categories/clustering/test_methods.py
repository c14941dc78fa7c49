import numpy as np
import pytest

from mixer_jax.categories.clustering.methods import (
    alone,
    components,
    dbscan,
    hdbscan,
    join,
    split,
    without_single,
)


def _pairs(rows):
    first, second, value = zip(*rows, strict=True)
    return np.array(first), np.array(second), np.array(value, float)


def test_dbscan_joins_neighbors():
    pairs = _pairs([(0, 1, 1.0), (1, 2, 0.6), (3, 4, 0.4), (5, 6, 0.5)])
    labels = dbscan(*pairs, 8, threshold=0.5)
    assert labels.tolist() == [0, 0, 0, -1, -1, 1, 1, -1]


def test_dbscan_without_pairs_returns_noise():
    none = np.zeros(0, np.int64)
    labels = dbscan(none, none, np.zeros(0), 3, threshold=0.5)
    assert labels.tolist() == [-1, -1, -1]


def test_dbscan_requires_min_samples():
    pairs = _pairs([(0, 1, 0.9), (2, 3, 0.9), (3, 4, 0.9), (2, 4, 0.9)])
    labels = dbscan(*pairs, 5, threshold=0.5, min_samples=3)
    assert labels.tolist() == [-1, -1, 0, 0, 0]


def test_components_match_dbscan_with_two_min_samples():
    rng = np.random.default_rng(0)
    first, second = np.sort(rng.integers(60, size=(80, 2)), axis=1).T
    value = rng.random(80)
    wanted = dbscan(first, second, value, 60, threshold=0.75)
    found = components(first, second, value, 60, threshold=0.75)
    assert found.max() > 3
    np.testing.assert_array_equal(found, wanted)


def _blocks(inside):
    """Returns the pairs of one clique of four nodes per affinity."""
    return [
        (4 * c + a, 4 * c + b, value)
        for c, value in enumerate(inside)
        for a in range(4)
        for b in range(a + 1, 4)
    ]


def test_hdbscan_gives_each_cluster_its_own_threshold():
    # The bridge is stronger than the last clique's affinities, so no single
    # DBSCAN threshold separates all three.
    rows = [*_blocks([0.95, 0.94, 0.3]), (0, 4, 0.5), (7, 8, 0.11)]
    pairs = _pairs(rows)
    assert _cliques(hdbscan(*pairs, 12, threshold=0.9, floor=0.1)) == 3
    one = dbscan(*pairs, 12, threshold=0.3)
    assert one[0] == one[4]
    # Samples joined at `threshold` stay together.
    assert _cliques(hdbscan(*pairs, 12, threshold=0.5, floor=0.1)) == 2


def _cliques(labels):
    """Returns the number of clusters; checks that they consist of cliques."""
    for start in range(0, len(labels), 4):
        assert len(set(labels[start : start + 4].tolist())) == 1
    assert min(labels) == 0
    return len(set(labels.tolist()))


def test_hdbscan_of_disconnected_and_empty_graphs():
    # Disconnected components and isolated samples are supported.
    labels = hdbscan(
        *_pairs(_blocks([0.9, 0.8])), 10, threshold=0.95, floor=0.2
    )
    assert _cliques(labels[:8]) == 2
    assert labels[8:].tolist() == [-1, -1]
    none = np.zeros(0, np.int64)
    assert (
        hdbscan(none, none, np.zeros(0), 3, threshold=0.5).tolist() == [-1] * 3
    )


def test_hdbscan_requires_min_samples():
    rows = [*_blocks([0.9, 0.9]), (8, 9, 0.9)]
    labels = hdbscan(*_pairs(rows), 10, threshold=0.5, min_samples=3)
    assert _cliques(labels[:8]) == 2
    assert labels[8:].tolist() == [-1, -1]


@pytest.mark.parametrize(("max_size", "sizes"), [(0, [8]), (4, [4, 4])])
def test_split_cuts_large_clusters_at_the_weakest_links(max_size, sizes):
    between = [(a, b, 0.5) for a in range(4) for b in range(4, 8)]
    pairs = _pairs(_blocks([0.9, 0.8]) + between)
    labels = split(np.zeros(8, int), *pairs, threshold=0.1, max_size=max_size)
    assert np.bincount(labels).tolist() == sizes
    assert len(set(labels[:4].tolist())) == len(set(labels[4:].tolist())) == 1


def test_split_parts_do_not_exceed_max_size():
    rng = np.random.default_rng(1)
    first, second = np.triu_indices(40, 1)
    value = rng.uniform(0.5, 1.0, len(first))
    labels = split(
        np.zeros(40, int), first, second, value, threshold=0.1, max_size=7
    )
    assert np.bincount(labels[labels >= 0]).max() <= 7
    assert (labels >= 0).mean() > 0.9


def test_without_single_renumbers_the_remaining_clusters():
    labels = np.array([7, 3, 7, -1, 5, 5, 5, -1])
    assert without_single(labels).tolist() == [1, -1, 1, -1, 0, 0, 0, -1]
    assert without_single(np.array([-1, -1])).tolist() == [-1, -1]


def test_split_cuts_a_stray_bridge():
    ring = [(a, b, 0.8) for a in range(4) for b in range(a + 1, 4)]
    twin = [(a + 4, b + 4, value) for a, b, value in ring]
    between = [(a, b, 0.01) for a in range(4) for b in range(4, 8)]
    between[0] = (0, 4, 0.6)
    pairs = _pairs(ring + twin + between)
    chained = dbscan(*pairs, 9, threshold=0.5)
    assert chained.tolist() == [0] * 8 + [-1]
    labels = split(chained, *pairs, threshold=0.2)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [-1]


def test_split_joins_by_the_mean_over_known_pairs():
    pairs = _pairs([(0, 1, 0.9), (1, 2, 0.5), (0, 2, 0.1)])
    one = np.zeros(3, np.int64)
    assert split(one, *pairs, threshold=0.3).tolist() == [0, 0, 0]
    assert split(one, *pairs, threshold=0.31).tolist() == [0, 0, -1]


def test_split_never_joins_clusters_or_noise():
    pairs = _pairs([(0, 1, 0.9), (2, 3, 0.9), (1, 2, 0.9), (3, 4, 0.9)])
    labels = split(np.array([5, 5, 2, 2, -1]), *pairs, threshold=0.1)
    assert labels.tolist() == [0, 0, 1, 1, -1]


def test_alone_gives_each_noise_sample_a_label():
    assert alone(np.array([1, -1, 0, -1])).tolist() == [1, 2, 0, 3]
    assert alone(np.array([-1, -1])).tolist() == [0, 1]


def test_join_is_transitive():
    labels = np.array([0, 1, 2, 3, 1])
    joined = join(labels, np.array([0, 1]), np.array([1, 3]))
    assert joined.tolist() == [0, 0, 1, 0, 0]
