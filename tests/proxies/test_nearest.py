import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.proxies import nearest


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_finds_the_nearest_allowed_rows(chunk):
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(5, 6)), rng.normal(size=(23, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    own = np.array([100, 103, 7, 122, 121])
    # IDs 100 to 119 are real; they are searched in two parts.
    found = nearest.none(5, 4)
    for begin, end, count in ((0, 11, 11), (11, 23, 9)):
        found = nearest.extend(
            found,
            jnp.float32(queries)[:, None, :],
            jnp.asarray(own),
            jnp.float32(rows[begin:end]),
            100 + begin,
            count,
            chunk,
        )
    scores = queries @ rows.T
    scores[:, 20:] = -np.inf
    scores[np.arange(100, 123)[None, :] == own[:, None]] = -np.inf
    expected = np.argsort(-scores, 1)[:, :4]
    np.testing.assert_array_equal(found[1], 100 + expected)
    np.testing.assert_allclose(
        found[0], np.take_along_axis(scores, expected, 1), rtol=1e-5
    )


def test_too_few_rows_leave_entries_empty():
    found = nearest.extend(
        nearest.none(1, 3),
        jnp.ones((1, 1, 2)),
        jnp.array([0]),
        jnp.ones((2, 2)),
        0,
        2,
        8,
    )
    np.testing.assert_array_equal(found[1], [[1, -1, -1]])


@pytest.mark.parametrize(("width", "k"), [(640, 3), (640, 11), (650, 3)])
def test_top_k_matches_lax_including_ties(width, k):
    values = np.random.default_rng(0).integers(0, 40, (9, width))
    values = jnp.float32(values).at[:, 100:200].set(-jnp.inf)
    found = nearest.top_k(values, k)
    for actual, expected in zip(found, jax.lax.top_k(values, k), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("approximate", [False, True])
def test_subcenters_on_both_sides_use_the_maximum_cosine(approximate):
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(5, 2, 6)), rng.normal(size=(23, 3, 6))
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    found = nearest.extend(
        nearest.none(5, 4),
        jnp.float32(queries),
        jnp.full(5, -1),
        jnp.float32(rows.reshape(23, 18)),
        0,
        23,
        7,
        approximate=approximate,
    )
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    scores = np.einsum("qmd,rnd->qrmn", queries, rows).max((2, 3))
    np.testing.assert_array_equal(found[1], np.argsort(-scores, 1)[:, :4])
