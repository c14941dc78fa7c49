import numpy as np
import pandas as pd

from mixer_jax.categories.evidence import graph
from mixer_jax.search.neighbors import cosine_top_k


def _clicks(rows=()):
    columns = ["query", "item", "exposures", "clicks"]
    table = np.array(rows, np.int64).reshape(-1, 4)
    return pd.DataFrame(table, columns=columns)


def test_pairs_include_neighbors_and_the_log():
    rng = np.random.default_rng(1)
    features = graph.Features(
        rng.normal(size=(8, 4)),
        rng.normal(size=(9, 4)),
        rng.normal(size=(9, 3)),
    )
    pairs = graph.build_pairs(
        features, _clicks([[0, 5, 7, 2], [3, 8, 1, 0]]), 2
    )
    assert (pairs.first < pairs.second).all()
    nodes = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(set(nodes)) == len(nodes)
    shown = pairs.where(pairs.exposures > 0)
    assert shown.first.tolist() == [0, 3]
    assert shown.second.tolist() == [8 + 5, 8 + 8]
    assert shown.exposures.tolist() == [7, 1]
    assert shown.clicks.tolist() == [2, 0]
    image = graph.normalize(
        np.concatenate([features.query_image, features.item_image])
    )
    np.testing.assert_allclose(
        pairs.content[:, 0],
        (image[pairs.first] * image[pairs.second]).sum(1),
        rtol=1e-4,
        atol=1e-6,
    )
    # Each query's pairs include its two nearest items.
    near, _ = cosine_top_k(image[:8], image[8:], 2)
    for query, items in enumerate(near):
        assert all((query, 8 + item) in nodes for item in items)
    within = pairs.kind == graph.ITEM_ITEM
    assert np.isfinite(pairs.content[within, 2]).all()
    assert np.isnan(pairs.content[~within, 2]).all()


def test_samples_without_content_have_no_neighbors():
    features = graph.Features(
        np.eye(3)[:2], np.array([[0.0, 0, 0], [1, 0, 0]]), np.zeros((2, 4))
    )
    pairs = graph.build_pairs(features, _clicks([[1, 0, 5, 5]]), 3)
    blank = (pairs.first == 2) | (pairs.second == 2)
    assert pairs.exposures[blank].tolist() == [5]
    assert np.isnan(pairs.content[blank]).all()


def test_centering_removes_a_shift_between_roles():
    rng = np.random.default_rng(2)
    base = rng.normal(size=(100, 16))
    shifted = base + 20 * np.eye(16)[0]
    features = graph.Features(base, shifted, np.zeros((100, 1)))
    pairs = graph.build_pairs(features, _clicks(), 1)
    across = pairs.where(pairs.kind == graph.QUERY_ITEM)
    assert ((across.first + 100) == across.second).all()


def test_images_match_those_of_the_pairs():
    rng = np.random.default_rng(3)
    features = graph.Features(
        rng.normal(size=(70, 4)), rng.normal(size=(5, 4)), np.zeros((5, 1))
    )
    image = graph.images(features)
    assert image.shape == (75, 4)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, rtol=1e-5)
    pairs = graph.build_pairs(features, _clicks(), 2)
    np.testing.assert_allclose(
        pairs.content[:, 0],
        (image[pairs.first] * image[pairs.second]).sum(1),
        rtol=1e-4,
        atol=1e-6,
    )
