import jax.numpy as jnp
import numpy as np

from mixer_jax.categories.neighbors import short_factors
from mixer_jax.runtime.arrays import normalize


def _random(count, width):
    return normalize(np.random.default_rng(0).normal(size=(count, width)))


def _flat(count, width, rank, rest, seed=0):
    """Rows that `rank` dimensions all but hold; `rest` is beside them."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
    scale = np.where(np.arange(width) < rank, 1.0, rest)
    return normalize(rng.normal(size=(count, width)) * scale @ basis)


def test_screens_all_dimensions_where_none_is_less():
    rows = _random(2000, 256)
    assert short_factors.principal(rows, rows) is None
    assert short_factors.principal(rows[:, :255], rows[:, :255]) is None


def test_a_short_product_is_no_less_than_the_cosine_but_for_its_error():
    rows = _flat(200, 256, 100, 0.05)
    basis = jnp.asarray(short_factors.principal(rows, rows))
    cosine = rows.astype(np.float64) @ rows.T.astype(np.float64)
    short, error = short_factors.shorten(rows, basis, jnp.dtype("bfloat16"))
    product = np.asarray(short_factors.products(short, short), np.float64)
    slack = np.asarray(error)[:, None] + np.asarray(error)[None, :]
    slack += 2 * short_factors.rounding(256)
    assert (cosine <= product + slack).all()
    assert (product - cosine).min() < 0  # so the error is needed
    assert 0 < error.max() < 2**-8


def test_the_fast_dtype_is_one_of_two_and_measured_once():
    dtype = short_factors.fast_dtype()
    assert dtype in (jnp.dtype("float32"), jnp.dtype("bfloat16"))
    assert short_factors.fast_dtype() is dtype
