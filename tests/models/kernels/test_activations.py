import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.kernels import activations


def test_relu6_clips_and_stops_gradients():
    x = jnp.array([-1.0, 2.0, 7.0])
    np.testing.assert_array_equal(activations.relu6(x), [0, 2, 6])
    gradient = jax.grad(lambda x: activations.relu6(x).sum())(x)
    np.testing.assert_array_equal(gradient, [0, 1, 0])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.02)]
)
def test_gelu_and_its_gradient(dtype, tolerance):
    x = jnp.linspace(-9, 9, 181).astype(dtype)
    weight = jnp.cos(x)

    def run(gelu):
        return jax.value_and_grad(lambda x: (gelu(x) * weight).sum())(x)

    plain = run(lambda x: jax.nn.gelu(x, approximate=False))
    for ours, reference in zip(run(activations.gelu), plain, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(
            np.float32(ours), np.float32(reference), tolerance, tolerance
        )
