import jax
import numpy as np
import pytest

from mixer_jax.proxies import active_set
from mixer_jax.runtime import mesh as meshes

START = 100  # the device's first category


compiled = jax.jit(active_set.select, static_argnames=("size", "uniform"))


def select(key, labels, neighbors, count, size, uniform):
    return compiled(
        key, labels, neighbors, START, count, size=size, uniform=uniform
    )[0]


@pytest.mark.parametrize(("size", "uniform"), [(8, 8), (20, 5), (40, 9)])
def test_rows_are_sorted_and_include_all_positives(size, uniform):
    """Labels and neighbors are random rows of this and other devices."""
    rng = np.random.default_rng(0)
    for trial in range(100):
        count = rng.integers(0, 41)
        spread = rng.choice([4, 40, 300])
        labels = START + rng.integers(-1, spread, 8)
        # Labels must be real categories.
        labels = np.where(labels >= START + count, 7, labels)
        neighbors = rng.integers(-1, START + spread, (8, 3))
        rows = np.array(
            select(
                jax.random.key(trial), labels, neighbors, count, size, uniform
            )
        )
        assert rows.shape == (size,)
        assert (np.diff(rows) > 0).all()
        assert rows[0] >= 0
        assert rows[-1] < 40
        assert (rows < count).sum() == min(size, count)
        here = (labels >= START) & (labels < START + count)
        assert set(labels[here] - START) <= set(rows.tolist())


def test_positives_can_fill_the_whole_set():
    labels = START + np.arange(8) * 5
    neighbors = labels[:, None] + 1
    rows = select(jax.random.key(0), labels, neighbors, 40, 8, 8)
    np.testing.assert_array_equal(rows, labels - START)


def test_near_and_frequent_neighbors_come_first():
    labels = START + np.array([0, 1, 2])
    # Scores: 10, 11 and 12 are first for one label (1 each); 20 is second for
    # two (2 / 2); 30 is third for three (3 / 3); 25 is second for one (1 / 2).
    # Ties go to the lower number.
    neighbors = START + np.array([[10, 20, 30], [11, 20, 30], [12, 25, 30]])
    for room, expected in [
        (4, [0, 1, 2, 10]),
        (6, [0, 1, 2, 10, 11, 12]),
        (8, [0, 1, 2, 10, 11, 12, 20, 30]),
    ]:
        rows = select(jax.random.key(0), labels, neighbors, 40, room, 0)
        np.testing.assert_array_equal(rows, expected)


def test_duplicate_labels_and_missing_neighbors_use_no_rows():
    labels = START + np.array([5, 5, 5, 5])
    neighbors = np.full((4, 3), -1)
    rows = np.array(select(jax.random.key(0), labels, neighbors, 40, 12, 0))
    assert 5 in rows
    assert len(set(rows.tolist())) == 12


def test_random_rows_are_uniform():
    """Rows that are neither positives nor near are equally likely."""
    labels = START + np.array([3, 3])
    neighbors = START + np.array([[10, 11, 12, 13]] * 2)
    count, size, uniform, draws = 37, 12, 9, 4000
    keys = jax.random.split(jax.random.key(0), draws)
    rows = jax.vmap(
        lambda key: select(key, labels, neighbors, count, size, uniform)
    )(keys)
    counts = np.bincount(np.array(rows).ravel(), minlength=40)
    # Three rows are fixed: the positive and the two nearest.
    np.testing.assert_array_equal(counts[[3, 10, 11]], draws)
    np.testing.assert_array_equal(counts[count:], 0)
    others = np.delete(counts[:count], [3, 10, 11])
    share = uniform / len(others)
    deviation = np.sqrt(draws * share * (1 - share))
    np.testing.assert_allclose(others, draws * share, atol=5 * deviation)


def test_weights_sum_to_the_number_of_rows():
    """Random rows represent equal shares of the rows not selected."""
    labels = START + np.array([3, 3])
    neighbors = START + np.array([[10, 11, 12, 13]] * 2)
    count, size, uniform = 37, 12, 9
    rows, weights = (
        np.array(x)
        for x in compiled(
            jax.random.key(0),
            labels,
            neighbors,
            START,
            count,
            size=size,
            uniform=uniform,
        )
    )
    taken = np.isin(rows, [3, 10, 11])
    np.testing.assert_array_equal(weights[taken], 1.0)
    np.testing.assert_allclose(weights[~taken], (count - 3) / uniform)
    np.testing.assert_allclose(weights.sum(), count, rtol=1e-6)


def test_neighbors_are_looked_up_on_their_devices(mesh):
    size = meshes.padded_rows(13, mesh)
    graph = np.arange(size * 3, dtype=np.int32).reshape(size, 3)
    labels = np.array([0, 12, 5, 5], np.int32)

    def look_up(graph, labels):
        start = jax.lax.axis_index(meshes.AXIS) * len(graph)
        return active_set.neighbors(graph, labels, start)

    split, whole = jax.P(meshes.AXIS), jax.P()
    found = jax.shard_map(
        look_up, mesh=mesh, in_specs=(split, whole), out_specs=whole
    )(graph, labels)
    np.testing.assert_array_equal(found, graph[labels])
