import dataclasses

import numpy as np
import pytest

from mixer_jax.data.images import augment as augmentation
from mixer_jax.data.images.augment import augment
from mixer_jax.runtime.errors import UserError

STILL = augmentation.Strength(
    scale=(1.0, 1.0),
    shift=0.0,
    stretch=0.0,
    rotate=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    jitter=0.0,
    gray=0.0,
    blur=0.0,
    blur_radius=0.0,
    erase=0.0,
    erase_area=0.0,
)


def change(image, seed=0, **fields):
    strength = dataclasses.replace(STILL, **fields)
    return augment(image, np.random.default_rng(seed), strength)


@pytest.fixture
def image():
    """A blue disc and a red square on white."""
    y, x = np.mgrid[:64, :64]
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[(y - 32) ** 2 + (x - 32) ** 2 < 200] = (30, 60, 200)
    pixels[40:50, 8:18] = (220, 30, 40)
    return pixels


@pytest.mark.parametrize("name", augmentation.NAMES)
def test_augment_depends_only_on_image_and_seed(image, name):
    before = image.copy()
    first = augment(image, np.random.default_rng(3), name)
    again = augment(image, np.random.default_rng(3), name)
    other = augment(image, np.random.default_rng(4), name)
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)
    assert (first == other).all() == (name == "none")


def test_strong_changes_more_than_light(image):
    def mean_change(name):
        rng = np.random.default_rng(0)
        changed = [augment(image, rng, name).astype(int) for _ in range(40)]
        return np.mean([np.abs(one - image).mean() for one in changed])

    assert mean_change("strong") > 1.5 * mean_change("light") > 0


def test_zero_strength_keeps_the_image(image):
    np.testing.assert_array_equal(change(image), image)
    np.testing.assert_allclose(change(image, jitter=1.0), image, atol=1)


def test_uncovered_areas_are_white(image):
    black = np.zeros_like(image)
    small = change(black, scale=(0.5, 0.5))
    assert small[0].min() == 255
    dark = (small[..., 0] < 128).mean()
    assert 0.2 < dark < 0.3
    large = change(image, scale=(2.0, 2.0))
    blue = (image[..., 2] > 150) & (image[..., 0] < 100)
    bigger = (large[..., 2] > 150) & (large[..., 0] < 100)
    assert 3.5 < bigger.sum() / blue.sum() < 4.5


def test_shift_stays_in_bounds(image):
    black = np.zeros_like(image)
    for seed in range(8):
        moved = change(black, seed, shift=0.25)
        white = (moved[32, :, 0] > 128).mean()
        assert white <= 0.27


def test_rotation_keeps_the_center(image):
    turned = change(image, 1, rotate=90.0)
    assert np.abs(turned.astype(int) - image).mean() > 1
    np.testing.assert_allclose(turned[32, 32], image[32, 32], atol=2)


def test_only_the_mirrored_strength_flips(image):
    np.testing.assert_array_equal(change(image, flip=1.0), image[:, ::-1])
    for name, strength in augmentation.STRENGTHS.items():
        assert (strength.flip > 0) == (name == "mirrored")


def test_gray_keeps_only_the_luma(image):
    gray = change(image, jitter=1.0, gray=1.0).astype(int)
    assert np.ptp(gray, axis=-1).max() <= 1
    luma = image @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray[..., 0], luma, atol=1.5)


def test_hue_shift_keeps_the_luma():
    color = np.full((8, 8, 3), (150, 110, 100), np.uint8)
    turned = change(color, 2, jitter=1.0, hue=0.3)
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(turned @ weights, color @ weights, atol=1.5)
    assert np.abs(turned.astype(int) - color).max() > 10


def test_brightness_scales_and_contrast_keeps_the_mean(image):
    bright = change(image, jitter=1.0, brightness=0.5).astype(float)
    ratio = bright[32, 32] / image[32, 32]
    assert abs(ratio[0] - 1) > 0.05
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.05)
    middle = image // 4 + 96
    contrast = change(middle, jitter=1.0, contrast=0.5)
    assert abs(contrast.mean() - middle.mean()) < 1.5
    assert abs(contrast.std() - middle.std()) > 1


def test_erasing_paints_one_rectangle(image):
    erased = change(image, 5, erase=1.0, erase_area=0.2)
    changed = (erased != image).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), changed.any(0).nonzero()[0]
    box = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert len(np.unique(box.reshape(-1, 3), axis=0)) == 1
    assert 0.0 < changed.mean() <= 0.21


def test_blur_smooths(image):
    blurred = change(image, blur=1.0, blur_radius=8.0).astype(int)
    edges = np.abs(np.diff(image.astype(int), axis=0)).max()
    assert np.abs(np.diff(blurred, axis=0)).max() < 0.8 * edges


def test_only_the_catalog_strength_replaces_the_background(image):
    image[40:50, 8:18] = 255  # only the disc remains
    painted = change(image, background=1.0)
    assert (painted[0] != 255).any()
    np.testing.assert_array_equal(painted[32, 32], image[32, 32])
    for name, strength in augmentation.STRENGTHS.items():
        assert (strength.background > 0) == (name == "catalog")


def test_uncovered_areas_count_as_background(image):
    painted = change(image, 1, background=1.0, scale=(0.5, 0.5))
    assert (painted[:8].min(-1) < 250).any()


def test_disabled_options_draw_no_random_numbers(image):
    """Results of strengths without the background option are unchanged."""
    for name in ("light", "strong", "mirrored"):
        rng, again = (np.random.default_rng(2) for _ in range(2))
        how = augmentation.STRENGTHS[name]
        augment(image, rng, name)
        # The draws of _move, then those of the three enabled options.
        augmentation._move(augmentation.Image.fromarray(image), again, how)
        for odds in (how.blur, how.jitter, how.erase):
            if again.random() >= odds:
                continue
            if odds == how.blur:
                again.uniform(0.0, how.blur_radius)
            elif odds == how.jitter:
                augmentation._color(image, again, how)
            else:
                augmentation._erase(image.copy(), again, how)
        assert rng.random() == again.random()


def test_change_replaces_single_fields():
    changed = augmentation.change("strong", [("flip", 0.5), ("scale", [1, 2])])
    assert (changed.flip, changed.scale) == (0.5, (1, 2))
    assert changed.blur == augmentation.STRENGTHS["strong"].blur
    assert augmentation.change("none", ()) == "none"
    assert augmentation.change("light", ()) is augmentation.STRENGTHS["light"]


@pytest.mark.parametrize(
    ("strength", "pairs", "message"),
    [
        ("light", [("blurr", 0.5)], "did you mean 'blur'"),
        ("light", [("flip",)], "pairs; the fields are"),
        ("light", [("flip", 1.5)], "flip to 1.5; it must be a number from 0"),
        ("light", [("flip", True)], "flip to True"),
        ("light", [("rotate", -1)], "0 or more"),
        ("light", [("scale", (2, 1))], "the smaller first"),
        ("light", [("scale", 1)], "two numbers"),
        ("none", [("flip", 0.5)], "data.augment is 'none'"),
        ("string", [], "none, light, strong"),
    ],
)
def test_invalid_changes_raise_an_error(strength, pairs, message):
    with pytest.raises(UserError, match=message):
        augmentation.change(strength, pairs)


def test_unknown_strength_error_lists_the_known_names(image):
    with pytest.raises(UserError, match="none, light, strong"):
        augment(image, np.random.default_rng(0), "string")
