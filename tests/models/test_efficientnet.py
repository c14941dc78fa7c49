import jax
import jax.numpy as jnp

from mixer_jax.models.efficientnet import EfficientNetLite0


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_size_of_the_published_model():
    model = EfficientNetLite0(classes=1000)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
    )
    assert _count(shapes["params"]) == 4_652_008


def test_one_patch_for_32_pixels():
    model = EfficientNetLite0(dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 96, 64, 3), jnp.uint8)
    patches, _ = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x), images
    )
    assert patches.shape == (2, 6, 1280)
    assert patches.dtype == jnp.bfloat16
