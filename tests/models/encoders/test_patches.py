"""Patch embeddings and resized position embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.encoders import patches
from mixer_jax.models.encoders.transformer import ImageConfig
from mixer_jax.runtime.errors import UserError

TINY = ImageConfig(width=6, patch=4, image_size=16)


@pytest.mark.parametrize(("size", "new"), [(4, 7), (7, 4), (14, 16), (3, 1)])
def test_bicubic_matches_torch(size, new):
    torch = pytest.importorskip("torch")
    row = np.random.default_rng(0).normal(size=size).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(row)[None, None, None].expand(1, 1, size, size),
        size=(new, new),
        mode="bicubic",
        align_corners=False,
    )
    ours = patches.bicubic(size, new) @ row
    np.testing.assert_allclose(ours, theirs[0, 0, 0].numpy(), atol=1e-5)


def test_positions_of_the_stored_size_are_not_resized():
    np.testing.assert_array_equal(patches.bicubic(5, 5), np.eye(5))
    x = jnp.zeros((2, 4, 4, 6))
    positions = jax.random.normal(jax.random.key(0), (16, 6))
    added = patches.add_positions(x, positions)
    np.testing.assert_array_equal(added[1], positions)


def test_cls_comes_first_with_its_own_position():
    positions = jax.random.normal(jax.random.key(0), (17, 6))
    cls = jnp.full((1, 6), 3.0)
    added = patches.add_positions(jnp.zeros((2, 2, 3, 6)), positions, cls)
    assert added.shape == (2, 7, 6)
    np.testing.assert_array_equal(added[0, 0], 3.0 + positions[0])


def test_patch_embedding_matches_a_convolution():
    images = np.random.default_rng(0).integers(0, 256, (2, 10, 8, 3), np.uint8)
    module = patches.PatchEmbedding(TINY)
    variables = module.init(jax.random.key(0), images)
    found = module.apply(variables, images)
    assert found.shape == (2, 2, 2, 6)
    pixels = (images.astype(np.float32) - 127.5) / 127.5
    expected = jax.lax.conv_general_dilated(
        pixels,
        variables["params"]["kernel"],
        (4, 4),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_images_smaller_than_a_patch_are_refused():
    module = patches.PatchEmbedding(TINY)
    with pytest.raises(UserError, match="3 x 8 pixels are smaller than one"):
        module.init(jax.random.key(0), jnp.zeros((1, 3, 8, 3)))
