import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.proxies import margins
from mixer_jax.runtime.errors import UserError

ANGLES = np.linspace(0.01, np.pi - 0.01, 400)


def make(name, size):
    return functools.partial(margins.make_margin(name), size=size)


@pytest.mark.parametrize("size", [0.0, 0.3, 1.5])
def test_arcface_adds_to_the_angle(size):
    margin = make("arcface", size)
    near = ANGLES[ANGLES + size < np.pi]
    np.testing.assert_allclose(
        margin(jnp.cos(near)), np.cos(near + size), atol=1e-5
    )


def test_cosface_subtracts_and_normface_changes_nothing():
    cosine = jnp.cos(ANGLES)
    cosface = make("cosface", 0.25)(cosine)
    np.testing.assert_allclose(cosface, np.cos(ANGLES) - 0.25, atol=1e-6)
    normface = make("normface", 0.25)(cosine)
    np.testing.assert_array_equal(normface, cosine)


@pytest.mark.parametrize("name", sorted(margins.MARGINS))
def test_margins_decrease_continuously_with_the_angle(name):
    values = make(name, 0.7)(jnp.cos(ANGLES))
    drops = -np.diff(values)
    assert (drops > -1e-6).all()
    assert drops.max() < 0.02


@pytest.mark.parametrize("name", sorted(margins.MARGINS))
def test_gradients_match_finite_differences(name):
    margin = make(name, 0.7)
    angles = jnp.asarray(ANGLES)
    slope = jax.vmap(jax.grad(margin))(jnp.cos(angles)) * -jnp.sin(angles)
    measured = np.gradient(np.asarray(margin(jnp.cos(angles))), ANGLES)
    # The tolerance is for arcface at t + m = pi, where the slope is continuous
    # but its derivative is not.
    np.testing.assert_allclose(slope[1:-1], measured[1:-1], atol=0.01)


@pytest.mark.parametrize("name", sorted(margins.MARGINS))
@pytest.mark.parametrize("cosine", [-1.0000001, -1.0, 0.0, 1.0, 1.0000001])
def test_gradients_are_finite_at_the_ends(name, cosine):
    slope = jax.grad(make(name, 0.5))(cosine)
    assert np.isfinite(slope)


def test_unknown_margin_error_lists_known_names():
    with pytest.raises(UserError, match="arcface, cosface, normface"):
        margins.make_margin("cosfase")


@pytest.mark.parametrize("block", [1, 3, 100])
def test_rare_categories_get_larger_margins(monkeypatch, block):
    monkeypatch.setattr(margins, "_BLOCK", block)
    sizes = margins.by_frequency(np.array([1, 16, 81, 1]), 0.4, 0.25)
    np.testing.assert_allclose(sizes, [0.4, 0.2, 0.4 / 3, 0.4], rtol=1e-6)
    even = margins.by_frequency(np.array([3, 500]), 0.4, 0.0)
    np.testing.assert_allclose(even, 0.4, rtol=1e-6)
