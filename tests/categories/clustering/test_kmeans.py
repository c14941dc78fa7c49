import jax
import numpy as np

from mixer_jax.categories.clustering.kmeans import kmeans
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.mesh import make_mesh


def _blobs(count, size, width=16, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    center = np.repeat(normalize(rng.normal(size=(count, width))), size, axis=0)
    return normalize(center + noise * rng.normal(size=center.shape))


def _within(rows, labels):
    """Returns the mean cosine between rows and their cluster's mean."""
    total = 0.0
    for label in np.unique(labels):
        part = rows[labels == label]
        total += (part @ normalize(part.mean(0, keepdims=True)).T).sum()
    return total / len(rows)


def test_rows_are_assigned_to_the_nearest_center():
    rows = _blobs(8, 10)
    labels = kmeans(rows, 8, rounds=20)
    assert _within(rows, labels) > 0.8
    assert _within(rows, labels) > _within(rows, kmeans(rows, 8, rounds=1))
    # Every row is in the cluster whose mean direction is nearest.
    means = normalize(
        np.stack([rows[labels == c].sum(0) for c in range(labels.max() + 1)])
    )
    np.testing.assert_array_equal(np.argmax(rows @ means.T, axis=1), labels)


def test_result_depends_on_the_seed_but_not_on_the_devices():
    rows = _blobs(12, 5, noise=0.3)
    one = kmeans(rows, 12, mesh=make_mesh(jax.devices()[:1]))
    np.testing.assert_array_equal(
        one, kmeans(rows, 12, mesh=make_mesh(jax.devices()[:4]))
    )
    assert (one != kmeans(rows, 12, seed=1)).any()


def test_unknown_and_single_samples_are_noise():
    rows = np.concatenate([_blobs(2, 3), np.zeros((2, 16), np.float32)])
    assert kmeans(rows, 1).tolist() == [0] * 6 + [-1] * 2
    assert kmeans(rows, 100).tolist() == [-1] * 8
    assert kmeans(np.zeros((2, 3), np.float32), 2).tolist() == [-1, -1]
