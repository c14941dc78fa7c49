import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.images import squares


def test_image_of_the_target_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    got = squares.square(Image.fromarray(pixels), 8)
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (1000, 10), (3, 2)])
def test_whole_image_is_kept_on_white(size):
    image = Image.new("RGB", size, (0, 0, 255))
    pixels = squares.square(image, 20)
    blue = (pixels[..., 0] < 128).sum()
    width, height = size
    short = max(1, round(20 * min(size) / max(size)))
    assert blue == 20 * short
    assert pixels[9:11, 9:11, 0].min() < 128  # centered
    corner = (0, 10) if width > height else (10, 0)
    assert pixels[corner].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    pixels = squares.square(image.convert(mode), 4)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, 3].tolist() == [255, 255, 255]


def test_half_transparent_pixels_blend_with_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    pixels = squares.square(image, 4)
    np.testing.assert_allclose(pixels[0, 0], [255, 127, 127], atol=1)


def test_sixteen_bits_are_scaled_not_clipped():
    image = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert squares.square(image, 4)[0, 0].tolist() == [128] * 3
