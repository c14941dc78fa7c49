"""Replacement of white backgrounds."""

import numpy as np
import pytest

from mixer_jax.data.images import background


@pytest.fixture
def product():
    """A dark ring with a white hole, on white."""
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(x - 32, y - 32)
    pixels = np.full((64, 64, 3), 252, np.uint8)
    pixels[(radius < 24) & (radius > 10)] = (40, 60, 90)
    return pixels


def replace(image, seed=0):
    return background.replace(image, np.random.default_rng(seed))


def test_only_white_around_the_object_is_painted(product):
    share = background.share_of_background(product)[..., 0]
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(x - 32, y - 32)
    assert (share[radius > 26] == 1).all()
    assert (share[radius < 20] == 0).all()
    for seed in range(12):
        before = product.copy()
        painted = replace(product, seed)
        np.testing.assert_array_equal(product, before)
        assert painted.dtype == np.uint8
        np.testing.assert_array_equal(
            painted[radius < 20], product[radius < 20]
        )
        # Nothing white is left next to the object, unless white was drawn.
        edge = painted[(radius > 24) & (radius < 26)].mean()
        outside = painted[radius > 28].mean()
        assert abs(edge - outside) < 45


def test_backgrounds_are_one_color_gradients_or_blots(product):
    painted = [replace(product, seed) for seed in range(40)]
    spans = [np.ptp(one[0].astype(int), axis=0).max() for one in painted]
    assert min(spans) == 0
    assert max(spans) > 60
    assert len({one.tobytes() for one in painted}) == 40


def test_replace_depends_only_on_image_and_seed(product):
    np.testing.assert_array_equal(replace(product, 3), replace(product, 3))


def test_images_not_on_white_are_unchanged(product):
    gray = product.copy()
    gray[:, :7] = 128  # a tenth of the border, and the sides of two rows
    dark = np.full_like(product, 30)
    for image in (gray, dark):
        assert background.share_of_background(image) is None
        assert replace(image) is image


def test_random_draws_do_not_depend_on_the_image(product):
    rngs = [np.random.default_rng(1) for _ in range(2)]
    background.replace(product, rngs[0])
    background.replace(np.zeros_like(product), rngs[1])
    assert rngs[0].random() == rngs[1].random()
