import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories import graph


def _clicks(rows=()):
    columns = ["query", "item", "exposures", "clicks"]
    table = np.array(rows, np.int64).reshape(-1, 4)
    return pd.DataFrame(table, columns=columns)


@pytest.mark.parametrize("block", [(3, 4), (1024, 16384)])
@pytest.mark.parametrize("same", [True, False])
def test_top_k_equals_brute_force(block, same):
    rng = np.random.default_rng(0)
    rows = graph.normalize(rng.normal(size=(17, 5)))
    gallery = rows if same else graph.normalize(rng.normal(size=(23, 5)))
    index, cosine = graph.cosine_top_k(rows, gallery, 6, same=same, block=block)
    score = rows @ gallery.T
    if same:
        np.fill_diagonal(score, -np.inf)
    wanted = np.argsort(-score, axis=1)[:, :6]
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_allclose(
        cosine, np.take_along_axis(score, wanted, 1), rtol=1e-5
    )


def test_top_k_of_a_small_gallery():
    rows = graph.normalize(np.eye(3))
    assert graph.cosine_top_k(rows, rows[:2], 5)[0].shape == (3, 2)
    assert graph.cosine_top_k(rows, rows, 5, same=True)[0].shape == (3, 2)
    alone = graph.cosine_top_k(rows[:1], rows[:1], 5, same=True)
    assert alone[0].shape == (1, 0)


def test_pairs_hold_neighbours_and_the_log():
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
    # Each query has its two nearest items among its pairs.
    near, _ = graph.cosine_top_k(image[:8], image[8:], 2)
    for query, items in enumerate(near):
        assert all((query, 8 + item) in nodes for item in items)
    within = pairs.kind == graph.ITEM_ITEM
    assert np.isfinite(pairs.content[within, 2]).all()
    assert np.isnan(pairs.content[~within, 2]).all()


def test_unknown_content_is_no_neighbour():
    features = graph.Features(
        np.eye(3)[:2], np.array([[0.0, 0, 0], [1, 0, 0]]), np.zeros((2, 4))
    )
    pairs = graph.build_pairs(features, _clicks([[1, 0, 5, 5]]), 3)
    blank = (pairs.first == 2) | (pairs.second == 2)
    assert pairs.exposures[blank].tolist() == [5]
    assert np.isnan(pairs.content[blank]).all()


def test_centring_takes_away_a_shift_between_roles():
    rng = np.random.default_rng(2)
    base = rng.normal(size=(100, 16))
    shifted = base + 20 * np.eye(16)[0]
    features = graph.Features(base, shifted, np.zeros((100, 1)))
    pairs = graph.build_pairs(features, _clicks(), 1)
    across = pairs.where(pairs.kind == graph.QUERY_ITEM)
    assert ((across.first + 100) == across.second).all()
