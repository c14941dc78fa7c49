import numpy as np
import pytest

from mixer_jax.categories.evidence.graph import Features
from mixer_jax.categories.quality.silhouette import silhouettes


def blobs(count, noise, seed=0):
    """Returns two queries and two items per category, around its center."""
    rng = np.random.default_rng(seed)
    center = rng.normal(size=(count, 24))

    def near():
        return np.repeat(center, 2, 0) + noise * rng.normal(
            size=(2 * count, 24)
        )

    labels = np.repeat(np.arange(count), 2)
    # Shift the queries' mean, to simulate photos matched with drawings.
    features = Features(near() + 5.0, near(), np.zeros((2 * count, 1)))
    return features, np.concatenate([labels, labels])


def test_tight_categories_score_near_one():
    features, labels = blobs(50, noise=0.05)
    found = silhouettes(features, labels)
    assert found.mean > 0.9
    assert found.samples == 200
    assert found.categories.tolist() == list(range(50))
    assert found.of_category.mean() == pytest.approx(found.mean)


def test_random_categories_score_below_zero():
    features, labels = blobs(50, noise=0.05)
    wrong = np.random.default_rng(1).permutation(labels)
    assert silhouettes(features, wrong).mean < 0


def test_a_mixed_category_scores_worst():
    features, labels = blobs(50, noise=0.2)
    labels[labels == 7] = 8
    found = silhouettes(features, labels)
    assert found.categories[found.of_category.argmin()] == 8


def test_whole_categories_are_drawn():
    features, labels = blobs(50, noise=0.2)
    found = silhouettes(features, labels, max_samples=40)
    assert (found.samples, len(found.categories)) == (40, 10)


def test_samples_without_category_or_image_are_left_out():
    features, labels = blobs(50, noise=0.05)
    labels[:40] = -1
    features.item_image[-10:] = 0.0
    assert silhouettes(features, labels).samples <= 150
    assert silhouettes(features, np.zeros(200, int)) is None
    assert silhouettes(features, np.full(200, -1)) is None
