import jax
import numpy as np
import pytest
from jax import lax

from mixer_jax.models.encoders import layers
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


@pytest.mark.parametrize("depthwise", [False, True])
def test_running_statistics_are_folded_into_the_kernel(depthwise):
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
        conv = convolutions.convolve(x, params["kernel"], 1)
    expected = (np.asarray(conv) - stats["mean"]) / np.sqrt(
        stats["var"] + 1e-3
    ) * params["scale"] + params["bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_batch_statistics_normalize_and_update():
    layer = layers.ConvNorm(4, momentum=0.9, epsilon=1e-6)
    x = 3 * _random(8, 4, 4, 5) + 1
    variables = layer.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    out, updated = layer.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-4)
    conv = np.asarray(
        convolutions.convolve(x, variables["params"]["kernel"], 1)
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["mean"], 0.1 * conv.mean((0, 1, 2)), rtol=1e-4
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["var"],
        0.9 + 0.1 * conv.var((0, 1, 2), ddof=1),
        rtol=1e-4,
    )


@pytest.mark.parametrize("depthwise", [False, True])
def test_statistics_cover_the_whole_sharded_batch(num_devices, depthwise):
    layer = layers.ConvNorm(5, 3, depthwise=depthwise, momentum=0.9)
    # The rows of different devices have different means.
    x = (
        _random(8, 6, 6, 5)
        + np.arange(8, dtype=np.float32)[:, None, None, None]
    )
    variables = layer.init(jax.random.key(0), x, True)
    variables["params"]["scale"] = _random(5, seed=1)
    weights = _random(8, 6, 6, 5, seed=2)

    @jax.jit
    def run(variables, x):
        def loss(params, x):
            out, changed = layer.apply(
                {**variables, "params": params},
                x,
                True,
                mutable=["batch_stats"],
            )
            return (out * weights).sum(), (out, changed)

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(
            variables["params"], x
        )

    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    split = run(
        jax.device_put(variables, mesh_lib.replicated(mesh)),
        jax.device_put(x, mesh_lib.rows(mesh)),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        split,
        run(variables, x),
    )
