import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.kernels import channel_sums
from mixer_jax.runtime import mesh as mesh_lib


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 6, 16])
def test_sum_of_a_term(rows):
    x, y = _random(rows, 3, 2, 5), _random(rows, 3, 2, 5, seed=1)
    actual = channel_sums.sum_terms(lambda x, y: x * y + 1, x, y)
    np.testing.assert_allclose(
        actual, (x * y + 1).sum((0, 1, 2)), rtol=1e-5, atol=1e-5
    )


def test_sums_of_bfloat16_are_float32():
    x = jnp.full((8, 16, 16, 2), 1.0078125, jnp.bfloat16)
    actual = channel_sums.sum_terms(lambda x: x, x)
    np.testing.assert_allclose(actual, 2048 * 1.0078125, rtol=1e-6)


def test_add_bias_gradients():
    x, bias = _random(4, 3, 2, 5), _random(5, seed=1)
    weight = _random(*x.shape, seed=2)
    by_x, by_bias = jax.grad(
        lambda x, b: (channel_sums.add_bias(x, b) * weight).sum(), (0, 1)
    )(x, bias)
    np.testing.assert_allclose(by_x, weight)
    np.testing.assert_allclose(by_bias, weight.sum((0, 1, 2)), rtol=1e-5)


def _plain(x, scale, bias, epsilon):
    """Batch normalization, differentiated by JAX."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    out = (x - mean[None, None, None]) / jnp.sqrt(var + epsilon)[
        None, None, None
    ] * scale[None, None, None] + bias[None, None, None]
    return out, mean, var


@pytest.mark.parametrize("rows", [8, 24])
def test_normalization_and_its_gradient(rows, num_devices):
    x, weight = 3 * _random(rows, 4, 3, 5) + 2, _random(rows, 4, 3, 5, seed=1)
    scale, bias = _random(5, seed=2), _random(5, seed=3)

    def run(normalize):
        def loss(x, scale, bias):
            found = normalize(x, scale, bias, 1e-3)
            return (found[0] * weight).sum(), found

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    split = mesh_lib.put_batch(x, mesh)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        run(channel_sums.normalize_batch)(split, scale, bias),
        run(_plain)(x, scale, bias),
    )
