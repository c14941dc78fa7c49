import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.resnet import ResNet


@pytest.mark.parametrize(
    ("depth", "parameters", "channels"),
    [(18, 11_176_512, 512), (50, 23_508_032, 2048)],
)
def test_size_of_the_published_model(depth, parameters, channels):
    model = ResNet(depth)
    patches, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x),
        jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8),
    )
    assert patches.shape == (2, 49, channels)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == parameters


def test_frozen_uses_running_statistics_while_training():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    model = ResNet(18)
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    def both(variables, images):
        _, trained = model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        frozen = model.clone(batch_norm="frozen").apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        return trained, frozen, model.apply(variables, images)

    trained, (patches, frozen), evaluated = both(variables, images)
    np.testing.assert_array_equal(patches, evaluated)
    before = variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, frozen["batch_stats"], before)
    mean = trained["batch_stats"]["stem"]["mean"]
    assert np.abs(mean - before["stem"]["mean"]).max() > 0
