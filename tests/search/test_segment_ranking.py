"""Positions in a full ranking, against a plain sort."""

import jax
import numpy as np

from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.search.rows import Rows


def make(num_devices, capacity):
    mesh = make_mesh(jax.devices()[:num_devices])
    return Rows(16, mesh, capacity=capacity, block=16)


def rankings(queries, rows, hidden):
    """Returns each query's visible rows, the nearest first."""
    lengths = np.linalg.norm(rows, axis=1)
    cosine = queries.astype(np.float64) @ (rows.astype(np.float64).T / lengths)
    order = np.argsort(-cosine, axis=1, kind="stable")
    return [
        [row for row in one if not gone[row]]
        for one, gone in zip(order, hidden, strict=True)
    ]


def test_positions_match_a_sort(num_devices):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(150, 16)).astype(np.float32)
    queries = rng.normal(size=(7, 16)).astype(np.float32)
    label = rng.integers(-1, 20, 150)
    own = np.array([-1, 3, 4, 99, 5, 6, -1])
    rows = make(num_devices, 40)
    for start, stop in ((0, 40), (40, 150)):  # two segments
        rows.append(vectors[start:stop], labels=label[start:stop])
    removed = rng.choice(150, 30, replace=False)
    rows.remove(removed)
    hidden = (own[:, None] == label) & (label >= 0)
    hidden |= np.isin(np.arange(150), removed)
    # More columns than one pass counts, with some padding.
    relevant = rng.integers(-1, 150, (7, 19))
    found = rows.positions(queries, relevant, labels=own)
    for query, ranking in enumerate(rankings(queries, vectors, hidden)):
        assert found[query].tolist() == [
            ranking.index(row) + 1 if row in ranking else 0
            for row in relevant[query]
        ]


def test_equal_rows_are_in_order(num_devices):
    rows = make(num_devices, 160)
    rows.append(np.ones((100, 16)))
    queries = np.ones((2, 16), np.float32)
    found = rows.positions(queries, np.array([[0, 99], [50, -1]]))
    assert found.tolist() == [[1, 100], [51, 0]]
    assert rows.positions(queries, np.zeros((2, 0), int)).shape == (2, 0)
    assert rows.positions(queries[:0], np.zeros((0, 3), int)).shape == (0, 3)
