import inspect

import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories import find
from mixer_jax.categories import settings as settings_lib
from mixer_jax.categories.evidence import graph
from mixer_jax.categories.quality import against_truth
from mixer_jax.demo import click_model


def _blobs(sizes, noise, seed=0, width=32):
    """Categories of queries and items whose content forms Gaussian blobs."""
    rng = np.random.default_rng(seed)
    count = len(sizes)
    queries = np.repeat(np.arange(count), sizes)
    items = np.repeat(np.arange(count), rng.permutation(sizes))
    image, text = rng.normal(size=(2, count, width))

    def near(center):
        return center + noise * rng.normal(size=center.shape)

    features = graph.Features(
        near(image[queries]), near(image[items]), near(text[items])
    )
    return queries, items, features


def _simulate(queries, items, features, searches):
    settings = click_model.Simulation(searches=searches)
    images = features.query_image, features.item_image
    return click_model.simulate(queries, items, settings, *images)


def _find(queries, items, features, searches, **settings):
    clicks = _simulate(queries, items, features, searches)
    settings = settings_lib.Settings(**settings)
    found = find.find_categories(features, clicks, settings)
    truth = np.concatenate([queries, items])
    return found, {
        name: against_truth.against_truth(getattr(found, name), truth)[
            "bcubed_f1"
        ]
        for name in ("combined", "clicks_alone", "content_alone")
    }


def test_combined_evidence_is_best_for_large_categories():
    sizes = np.random.default_rng(1).integers(1, 21, 40)
    _, f1 = _find(*_blobs(sizes, noise=0.8), searches=30.0)
    assert f1["combined"] > 0.85
    assert f1["combined"] > f1["clicks_alone"] + 0.1
    assert f1["combined"] > f1["content_alone"] + 0.1


def test_combined_evidence_is_best_for_pairs():
    sizes = np.ones(400, int)
    _, f1 = _find(*_blobs(sizes, noise=1.0), searches=60.0)
    assert f1["combined"] > 0.8
    assert f1["combined"] > f1["clicks_alone"]
    assert f1["combined"] > f1["content_alone"]


def test_clicks_separate_similar_variants():
    # Items come in nearly identical pairs of different categories.
    rng = np.random.default_rng(2)
    twin = np.repeat(rng.normal(size=(150, 16)), 2, axis=0)
    near = twin + 0.01 * rng.normal(size=twin.shape)
    own = near + 0.3 * rng.normal(size=twin.shape)
    names = np.arange(300)
    features = graph.Features(own, near, near)
    found, f1 = _find(names, names, features, searches=60.0)
    assert f1["combined"] > 0.8
    assert f1["combined"] > f1["content_alone"] + 0.05
    labels = found.combined[300:].reshape(150, 2)
    merged = (labels[:, 0] == labels[:, 1]) & (labels[:, 0] >= 0)
    assert merged.mean() < 0.1


def test_true_categories_are_not_an_input():
    names = set(inspect.signature(find.find_categories).parameters)
    assert names == {"features", "clicks", "settings", "mesh", "phase"}


@pytest.mark.parametrize("method", settings_lib.METHODS)
def test_every_method_finds_categories(method):
    sizes = np.random.default_rng(1).integers(1, 9, 40)
    queries, items, features = _blobs(sizes, noise=0.4)
    found, f1 = _find(
        queries,
        items,
        features,
        searches=30.0,
        method=method,
        k=len(sizes) if method == "kmeans" else 0,
    )
    assert f1["combined"] > 0.75
    assert found.dense.max() > 10
    assert ("threshold" in found.chosen) == (method != "kmeans")
    assert bool(found.curve) == (method != "kmeans")


def test_a_given_threshold_is_not_replaced():
    queries, items, features = _blobs(np.array([3, 4, 5]), noise=0.3)
    found, _ = _find(queries, items, features, searches=20.0, threshold=0.3)
    assert not found.chosen
    assert not found.curve


def test_the_chosen_threshold_is_near_the_best_of_a_sweep():
    sizes = np.random.default_rng(1).integers(1, 9, 40)
    queries, items, features = _blobs(sizes, noise=0.6)
    clicks = _simulate(queries, items, features, searches=20.0)
    truth = np.concatenate([queries, items])
    weighed = find.weigh_pairs(features, clicks, settings_lib.Settings())

    def f1(threshold):
        settings = settings_lib.Settings(threshold=threshold)
        found = find.group(features, *weighed, settings)
        return against_truth.against_truth(found.combined, truth)["bcubed_f1"]

    grid = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.9)
    sweep = [f1(threshold) for threshold in grid]
    assert max(sweep) > min(sweep) + 0.03
    assert f1(None) > max(sweep) - 0.03


def test_no_category_exceeds_max_size():
    queries, items, features = _blobs(np.array([12, 2, 3]), noise=0.3)
    whole, _ = _find(queries, items, features, searches=40.0)
    assert np.bincount(whole.combined[whole.combined >= 0]).max() > 6
    found, _ = _find(queries, items, features, searches=40.0, max_size=6)
    sizes = np.bincount(found.combined[found.combined >= 0])
    assert sizes.max() <= 6
    assert (found.combined >= 0).sum() > 0.8 * (whole.combined >= 0).sum()


def test_copied_items_share_a_category():
    # The content is too noisy to join samples by similarity alone.
    queries, items, features = _blobs(np.full(20, 2), noise=1.5)
    # Items 0 and 39 have the same content under two IDs.
    for content in (features.item_image, features.item_text):
        content[39] = content[0]
    found, _ = _find(queries, items, features, searches=30.0)
    labels = found.combined[len(queries) :]
    assert labels[0] == labels[39] >= 0
    assert found.merges["copies"] >= 1


def test_phases_are_reported_in_order():
    queries, items, features = _blobs(np.array([2, 3]), noise=0.1)
    clicks = click_model.simulate(queries, items, click_model.Simulation())
    phases = []
    find.find_categories(
        features, clicks, settings_lib.Settings(), phase=phases.append
    )
    assert phases == [
        *("neighbors", "evidence", "clusters"),
        *("splitting", "merging", "halves"),
    ]


def test_an_empty_log():
    queries, items, features = _blobs(np.array([2, 3]), noise=0.1)
    clicks = click_model.simulate(
        queries, items, click_model.Simulation(searches=1e-9)
    )
    assert clicks.empty
    found = find.find_categories(features, clicks, settings_lib.Settings())
    assert found.combined.shape == (10,)
    assert (found.clicks_alone == -1).all()


@pytest.mark.parametrize("threshold", [0.9, 1.1])
def test_content_alone_joins_near_duplicates(threshold):
    image = np.array([[1.0, 0.0], [0.0, 1.0]])
    items = np.array([[1.0, 0.1], [1.0, 0.0]])
    features = graph.Features(image, items, np.zeros((2, 1)))
    columns = ["query", "item", "exposures", "clicks"]
    clicks = pd.DataFrame(np.zeros((0, 4), np.int64), columns=columns)
    pairs = graph.build_pairs(features, clicks, 2)
    joined = find.content_only(pairs, 4, threshold)
    both_items = (pairs.first == 2) & (pairs.second == 3)
    assert joined[both_items].tolist() == [float(threshold < 1)]
