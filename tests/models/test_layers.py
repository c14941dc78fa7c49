import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mixer_jax import mesh as mesh_lib
from mixer_jax.models import layers


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


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"),
    [(6, 8, 3, 1), (6, 8, 3, 2), (7, 5, 5, 2), (2, 3, 5, 1), (5, 5, 3, 2)],
)
def test_depthwise_equals_grouped_convolution(height, width, size, stride):
    x, kernel = _random(3, height, width, 4), _random(size, size, 1, 4, seed=1)
    expected, pullback = jax.vjp(lambda x, k: _grouped(x, k, stride), x, kernel)
    actual, our_pullback = jax.vjp(
        lambda x, k: layers.depthwise(x, k, stride), x, kernel
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    gradient = _random(*expected.shape, seed=2)
    for ours, reference in zip(
        our_pullback(gradient), pullback(gradient), strict=True
    ):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5)


def test_depthwise_on_a_batch_split_over_devices(num_devices):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    x, kernel = _random(16, 4, 4, 8), _random(3, 3, 1, 8, seed=1)

    @jax.jit
    def gradients(x, kernel):
        return jax.grad(
            lambda *a: jnp.square(layers.depthwise(*a, 1)).sum(), (0, 1)
        )(x, kernel)

    expected = gradients(x, kernel)
    actual = gradients(mesh_lib.put_batch(x, mesh), kernel)
    for ours, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 6, 16])
def test_channel_sum_and_its_gradient(rows):
    x, weight = _random(rows, 3, 2, 5), _random(5, seed=1)
    np.testing.assert_allclose(
        layers.channel_sum(x), x.sum((0, 1, 2)), rtol=1e-5, atol=1e-5
    )
    gradient = jax.grad(lambda x: jnp.dot(layers.channel_sum(x), weight))(x)
    np.testing.assert_allclose(gradient, np.broadcast_to(weight, x.shape))


def test_add_bias_gradients():
    x, bias = _random(4, 3, 2, 5), _random(5, seed=1)
    weight = _random(*x.shape, seed=2)
    by_x, by_bias = jax.grad(
        lambda x, b: (layers.add_bias(x, b) * weight).sum(), (0, 1)
    )(x, bias)
    np.testing.assert_allclose(by_x, weight)
    np.testing.assert_allclose(by_bias, weight.sum((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolution_equals_native(stride):
    x, kernel = _random(2, 5, 5, 3), _random(1, 1, 3, 4, seed=1)
    native = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(
        layers.convolve(x, kernel, stride), native, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("depthwise", [False, True])
def test_running_statistics_folded_into_the_kernel(depthwise):
    layer = layers.ConvNorm(6, 3, depthwise=depthwise)
    x = _random(2, 5, 5, 6)
    variables = layer.init(jax.random.key(0), x, False)
    params = variables["params"] | {
        "scale": _random(6, seed=1),
        "bias": _random(6, seed=2),
    }
    stats = {"mean": _random(6, seed=3), "var": _random(6, seed=4) ** 2}
    actual = layer.apply({"params": params, "batch_stats": stats}, x, False)
    if depthwise:
        conv = _grouped(x, params["kernel"], 1)
    else:
        conv = layers.convolve(x, params["kernel"], 1)
    expected = (np.asarray(conv) - stats["mean"]) / np.sqrt(
        stats["var"] + 1e-3
    ) * params["scale"] + params["bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_batch_statistics_normalise_and_update():
    layer = layers.ConvNorm(4, momentum=0.9, epsilon=1e-6)
    x = 3 * _random(8, 4, 4, 5) + 1
    variables = layer.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    out, updated = layer.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-4)
    conv = np.asarray(layers.convolve(x, variables["params"]["kernel"], 1))
    np.testing.assert_allclose(
        updated["batch_stats"]["mean"], 0.1 * conv.mean((0, 1, 2)), rtol=1e-4
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["var"],
        0.9 + 0.1 * conv.var((0, 1, 2), ddof=1),
        rtol=1e-4,
    )


def test_relu6_clips_and_stops_gradients():
    x = jnp.array([-1.0, 2.0, 7.0])
    np.testing.assert_array_equal(layers.relu6(x), [0, 2, 6])
    gradient = jax.grad(lambda x: layers.relu6(x).sum())(x)
    np.testing.assert_array_equal(gradient, [0, 1, 0])
