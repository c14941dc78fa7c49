import jax.numpy as jnp
import numpy as np

from mixer_jax.runtime.arrays import normalize
from mixer_jax.search import short_factors


def _random(count, width):
    return normalize(np.random.default_rng(0).normal(size=(count, width)))


def _low_rank(count, width, rank, rest, seed=0):
    """Returns rows close to rank `rank`; `rest` scales the other dimensions."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
    scale = np.where(np.arange(width) < rank, 1.0, rest)
    return normalize(rng.normal(size=(count, width)) * scale @ basis)


def test_all_dimensions_are_kept_if_none_can_be_dropped():
    rows = _random(2000, 256)
    assert short_factors.principal(rows, rows) is None
    assert short_factors.principal(rows[:, :255], rows[:, :255]) is None


def test_a_short_product_bounds_the_cosine_up_to_its_error():
    rows = _low_rank(200, 256, 100, 0.05)
    basis = jnp.asarray(short_factors.principal(rows, rows))
    cosine = rows.astype(np.float64) @ rows.T.astype(np.float64)
    short, error = short_factors.shorten(rows, basis, jnp.dtype("bfloat16"))
    product = np.asarray(short_factors.products(short, short), np.float64)
    slack = np.asarray(error)[:, None] + np.asarray(error)[None, :]
    slack += 2 * short_factors.rounding(256)
    assert (cosine <= product + slack).all()
    assert (product - cosine).min() < 0  # bounds without slack would fail
    assert 0 < error.max() < 2**-8


def test_the_fast_dtype_is_measured_once():
    dtype = short_factors.fast_dtype()
    assert dtype in (jnp.dtype("float32"), jnp.dtype("bfloat16"))
    assert short_factors.fast_dtype() is dtype


def test_mixing_is_a_rotation():
    for width in (7, 24, 256):
        rows = _random(50, width)
        mixed = np.asarray(short_factors.mix(rows), np.float64)
        np.testing.assert_allclose(
            mixed @ mixed.T,
            rows.astype(np.float64) @ rows.T.astype(np.float64),
            atol=short_factors.MIXING,
        )
    corner = short_factors.mix(jnp.eye(256)[:1])
    assert abs(corner).max() == 1 / 8


def test_integers_are_within_their_distance():
    rows = _random(100, 24)
    rows[3] = 0
    integers, scale, distance = map(np.asarray, short_factors.to_integers(rows))
    rounded = integers * scale[:, None].astype(np.float64)
    np.testing.assert_allclose(
        np.linalg.norm(rows - rounded, axis=1), distance, rtol=1e-4
    )
    assert abs(integers).max() == 127
    assert not integers[3].any()
    assert distance[3] == 0
    assert 0 < distance[0] < 0.02
