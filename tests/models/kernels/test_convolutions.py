import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mixer_jax.models.kernels import convolutions
from mixer_jax.runtime import mesh as mesh_lib


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _grouped(x, kernel, stride):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _native(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(6, 8, 3, 1), (6, 8, 3, 2), (7, 5, 5, 2), (2, 3, 5, 1), (5, 5, 3, 2)],
)
def test_depthwise_equals_grouped_convolution(height, width, size, stride):
    x, kernel = _random(3, height, width, 4), _random(size, size, 1, 4, seed=1)
    expected, pullback = jax.vjp(lambda x, k: _grouped(x, k, stride), x, kernel)
    actual, our_pullback = jax.vjp(
        lambda x, k: convolutions.depthwise(x, k, stride), x, kernel
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    gradient = _random(*expected.shape, seed=2)
    for ours, reference in zip(
        our_pullback(gradient), pullback(gradient), strict=True
    ):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", 0, 1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(6, 8, 3, 1), (6, 8, 3, 2), (7, 5, 5, 2), (8, 9, 7, 3), (4, 4, 2, 2)],
)
def test_dense_equals_native_convolution(height, width, size, stride, padding):
    x, kernel = _random(3, height, width, 4), _random(size, size, 4, 6, seed=1)
    around = padding if padding == "SAME" else ((padding, padding),) * 2
    expected, pullback = jax.vjp(
        lambda x, k: _native(x, k, stride, around), x, kernel
    )
    actual, our_pullback = jax.vjp(
        lambda x, k: convolutions.convolve(x, k, stride, padding), x, kernel
    )
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    gradient = _random(*expected.shape, seed=2)
    for ours, reference in zip(
        our_pullback(gradient), pullback(gradient), strict=True
    ):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolution_equals_native(stride):
    x, kernel = _random(2, 5, 5, 3), _random(1, 1, 3, 4, seed=1)
    np.testing.assert_allclose(
        convolutions.convolve(x, kernel, stride),
        _native(x, kernel, stride, "SAME"),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("convolve", ["depthwise", "convolve"])
def test_sharded_batch_matches_unsharded(num_devices, convolve):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    into = 1 if convolve == "depthwise" else 8
    x, kernel = _random(16, 4, 4, 8), _random(3, 3, into, 8, seed=1)
    convolve = getattr(convolutions, convolve)

    @jax.jit
    def gradients(x, kernel):
        return jax.grad(lambda *a: jnp.square(convolve(*a, 1)).sum(), (0, 1))(
            x, kernel
        )

    expected = gradients(x, kernel)
    actual = gradients(mesh_lib.put_batch(x, mesh), kernel)
    for ours, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)
