"""Conversion of all accepted picture types."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.images import decoding, faults, pictures
from mixer_jax.runtime.errors import UserError
from tests import broken_files

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_all_types_of_pictures_give_the_same_pixels(tmp_path):
    image = Image.fromarray(PIXELS)
    (tmp_path / "a.png").write_bytes(png(image))
    for form in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        png(image),
        bytearray(png(image)),
        image,
        PIXELS,
        jnp.asarray(PIXELS),
        PIXELS.astype(np.float32) / 255,
        PIXELS.astype(np.float64) / 255,
        np.concatenate([PIXELS, np.full((8, 8, 1), 255, np.uint8)], 2),
    ):
        np.testing.assert_array_equal(pictures.to_pixels(form, 8), PIXELS)


def test_gray_arrays_with_and_without_a_channel_axis():
    gray = PIXELS[..., 0]
    wanted = np.repeat(gray[..., None], 3, 2)
    for form in (gray, gray[..., None]):
        np.testing.assert_array_equal(pictures.to_pixels(form, 8), wanted)


def test_array_is_scaled_like_a_file():
    tall = np.random.default_rng(1).integers(0, 256, (40, 17, 3), np.uint8)
    wanted = decoding.decode(png(Image.fromarray(tall)), 16)
    np.testing.assert_array_equal(pictures.to_pixels(tall, 16), wanted)


def test_pil_image_is_not_modified():
    image = Image.fromarray(PIXELS).convert("RGBA")
    pictures.to_pixels(image, 4)
    assert image.getpixel((0, 0))[:3] == tuple(PIXELS[0, 0])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (3, "cannot be of type int; pass"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        (np.zeros((8, 8, 3), np.int64), "array of dtype int64"),
        (np.full((8, 8, 3), 255.0), "scale them to the range from 0 to 1"),
        (np.full((8, 8), np.nan), "scale them to the range from 0 to 1"),
        (b"no image", "not an image"),
        ("no/such.png", "the file is missing"),
    ],
)
def test_invalid_pictures_raise_an_error(picture, message):
    with pytest.raises(UserError, match=message):
        pictures.to_pixels(picture, 8)


def test_single_picture_is_not_a_list():
    for one in ("a.png", b"...", Image.fromarray(PIXELS), PIXELS):
        with pytest.raises(UserError, match="put it in a list"):
            pictures.check_list(one, "images")
    with pytest.raises(UserError, match="images is of type int"):
        pictures.check_list(3, "images")
    assert len(pictures.check_list(PIXELS[None], "images")) == 1


def test_open_pil_image_is_counted_before_decoding():
    content = broken_files.png_header(60_000, 60_000)
    content += broken_files.png_chunk(b"IDAT", b"")
    huge = Image.open(io.BytesIO(content))
    with pytest.raises(faults.UnreadableImageError, match="60000 x") as caught:
        pictures.to_pixels(huge, 8)
    assert caught.value.kind == faults.TOO_LARGE
    decoded = Image.new("L", (30, 30))
    assert pictures.to_pixels(decoded, 8, 100).shape == (8, 8, 3)


def test_truncated_open_pil_image_raises_an_error():
    content = broken_files.encode(broken_files.noise(64))
    cut = Image.open(io.BytesIO(content[:-2000]))
    with pytest.raises(faults.UnreadableImageError, match="truncated"):
        pictures.to_pixels(cut, 8)
