"""Sharded search against a plain sort."""

import jax
import numpy as np
import pytest

from mixer_jax.retrieval import search
from mixer_jax.runtime.mesh import make_mesh


def naive_ranking(queries, documents, query_images, images):
    """Returns each query's ranked document rows, without its own image."""
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    scores = queries @ documents.T
    rankings = []
    for score, own in zip(scores, query_images, strict=True):
        order = np.argsort(-score, kind="stable")
        rankings.append([r for r in order if own < 0 or images[r] != own])
    return rankings


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(150, 16)).astype(np.float32)
    queries = rng.normal(size=(9, 16)).astype(np.float32)
    images = rng.integers(-1, 60, 150).astype(np.int32)
    query_images = np.array([-1, 3, 4, 99, 5, 6, 7, 8, -1], np.int32)
    return queries, documents, query_images, images


def test_top_k_matches_a_sort(problem, num_devices):
    queries, documents, query_images, images = problem
    mesh = make_mesh(jax.devices()[:num_devices])
    gallery = search.make_gallery(documents, mesh, images, block=16)
    scores, found = search.top_k(gallery, queries, 7, query_images)
    expected = naive_ranking(queries, documents, query_images, images)
    np.testing.assert_array_equal(found, [r[:7] for r in expected])
    assert (np.diff(scores, axis=1) <= 0).all()


def test_positions_match_a_sort(problem, num_devices):
    queries, documents, query_images, images = problem
    mesh = make_mesh(jax.devices()[:num_devices])
    gallery = search.make_gallery(documents, mesh, images, block=16)
    rng = np.random.default_rng(1)
    # More columns than are ranked at once, with some padding.
    relevant = rng.integers(-1, 150, (9, search.RELEVANT_BLOCK + 3))
    found = search.positions(gallery, queries, relevant, query_images)
    rankings = naive_ranking(queries, documents, query_images, images)
    for row, ranking in enumerate(rankings):
        expected = [
            ranking.index(r) + 1 if r in ranking else 0 for r in relevant[row]
        ]
        np.testing.assert_array_equal(found[row], expected)


def test_results_are_bitwise_equal_on_any_device_count():
    rng = np.random.default_rng(2)
    documents = rng.normal(size=(2500, 32)).astype(np.float32)
    documents[1::2] = documents[::2]  # every score is tied once
    queries = rng.normal(size=(200, 32)).astype(np.float32)
    relevant = rng.integers(0, 2500, (200, 4))
    results = []
    for count in (1, 2, 4, 8):
        gallery = search.make_gallery(
            documents, make_mesh(jax.devices()[:count]), block=128
        )
        scores, found = search.top_k(gallery, queries, 10)
        places = search.positions(gallery, queries, relevant)
        results.append((scores, found, places))
    for result in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, result, results[0])
    assert (results[0][1][:, ::2] + 1 == results[0][1][:, 1::2]).all()


def test_ties_go_to_the_lower_row(num_devices):
    documents = np.ones((100, 4), np.float32)
    mesh = make_mesh(jax.devices()[:num_devices])
    gallery = search.make_gallery(documents, mesh, block=8)
    queries = np.ones((2, 4), np.float32)
    _, found = search.top_k(gallery, queries, 5)
    np.testing.assert_array_equal(found, [[0, 1, 2, 3, 4]] * 2)
    places = search.positions(gallery, queries, np.array([[0, 99], [50, -1]]))
    np.testing.assert_array_equal(places, [[1, 100], [51, 0]])


def test_missing_documents_are_padded():
    gallery = search.make_gallery(
        np.eye(3, dtype=np.float32), make_mesh(), np.array([5, -1, -1])
    )
    scores, found = search.top_k(
        gallery, np.eye(3, dtype=np.float32)[:1], 4, np.array([5])
    )
    np.testing.assert_array_equal(found, [[1, 2, -1, -1]])
    assert np.isneginf(scores[0, 2:]).all()
    places = search.positions(
        gallery,
        np.eye(3, dtype=np.float32)[:1],
        np.array([[0, 1, 2]]),
        np.array([5]),
    )
    np.testing.assert_array_equal(places, [[0, 1, 2]])


def test_no_queries_give_no_rows():
    gallery = search.make_gallery(np.eye(3, dtype=np.float32), make_mesh())
    scores, found = search.top_k(gallery, np.zeros((0, 3), np.float32), 2)
    assert scores.shape == found.shape == (0, 2)


def test_invalid_embeddings_raise_an_error():
    broken = np.ones((4, 2), np.float32)
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 .* row 2"):
        search.make_gallery(broken, make_mesh())
    with pytest.raises(ValueError, match="no documents"):
        search.make_gallery(broken[:0], make_mesh())
