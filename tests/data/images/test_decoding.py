import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.images import decoding, faults
from mixer_jax.runtime.errors import UserError
from tests import broken_files
from tests.broken_files import encode


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_colors_survive_in_every_format(kind):
    image = Image.new("RGB", (40, 40), (200, 40, 90))
    pixels = decoding.decode(encode(image, kind), 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(
        pixels, np.full((16, 16, 3), (200, 40, 90)), atol=6
    )


def test_a_check_decodes_all_bytes():
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    )
    for kind in ("png", "jpeg", "webp"):
        content = encode(image, kind)
        decoding.check(content)
        with pytest.raises(decoding.UnreadableImageError):
            decoding.check(content[: len(content) * 3 // 4])


def test_formats_that_embed_another_image_are_refused():
    """A BLP may contain a JPEG of any size, decoded before the size check."""
    content = encode(Image.new("P", (40, 40)), "blp")
    assert Image.open(io.BytesIO(content)).size == (40, 40)
    with pytest.raises(
        decoding.UnreadableImageError, match="cannot be decoded"
    ):
        decoding.decode(content, 16)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK"])
def test_other_modes_become_rgb(mode):
    image = Image.new("RGB", (8, 8), "white").convert(mode)
    kind = "jpeg" if mode == "CMYK" else "png"
    pixels = decoding.decode(encode(image, kind), 8)
    assert pixels.min() > 250


def test_exif_rotation_is_undone():
    image = Image.new("RGB", (32, 32), "white")
    image.paste((0, 0, 0), (0, 0, 32, 16))  # black above
    exif = image.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    pixels = decoding.decode(encode(image, "jpeg", exif=exif), 32)
    assert pixels[16, 28].max() < 40  # black on the right
    assert pixels[16, 4].min() > 215


def test_large_jpeg_is_scaled_correctly():
    image = Image.new("RGB", (1600, 1200), "white")
    image.paste((255, 0, 0), (0, 0, 800, 1200))
    pixels = decoding.decode(encode(image, "jpeg"), 32)
    assert pixels[:4].min() == 255  # the letterbox
    np.testing.assert_allclose(pixels[16, 4], [255, 0, 0], atol=8)
    np.testing.assert_allclose(pixels[16, 28], 255, atol=8)


def smooth(height, width):
    """Returns a picture that scales well, with four different corners."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([255 * x, 255 * y, 255 * (1 - x)], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def test_cmyk_matches_rgb():
    image = smooth(32, 32)
    plain = decoding.decode(encode(image), 32)
    printed = decoding.decode(encode(image.convert("CMYK"), "jpeg"), 32)
    np.testing.assert_allclose(printed.astype(int), plain, atol=12)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_match_eight_bits(kind):
    gray = np.asarray(smooth(32, 32).convert("L"))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    plain = decoding.decode(encode(Image.fromarray(gray)), 32)
    np.testing.assert_array_equal(
        decoding.decode(encode(deep, kind), 32), plain
    )


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_animation_decodes_to_its_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "blue", "lime")]
    content = encode(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if kind == "webp" else {}),
    )
    pixels = decoding.decode(content, 16)
    np.testing.assert_array_equal(
        pixels, decoding.decode(encode(frames[0]), 16)
    )


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_every_exif_orientation_is_undone(orientation, turn):
    image = smooth(16, 24)
    exif = image.getexif()
    exif[0x0112] = orientation
    pixels = decoding.decode(encode(image, exif=exif), 24)
    rotated = turn(np.asarray(image))
    plain = decoding.decode(encode(Image.fromarray(rotated)), 24)
    np.testing.assert_array_equal(pixels, plain)


def test_palette_and_opaque_alpha_match_rgb():
    image = smooth(32, 32).convert("P", palette=Image.Palette.ADAPTIVE)
    plain = decoding.decode(encode(image.convert("RGB")), 32)
    np.testing.assert_array_equal(decoding.decode(encode(image), 32), plain)
    opaque = image.convert("RGBA")
    np.testing.assert_array_equal(decoding.decode(encode(opaque), 32), plain)


def test_pixel_limit_of_a_jpeg_applies_to_its_reduced_size():
    image = smooth(50, 50).convert("L")
    large = image.resize((10_000, 10_000), Image.Resampling.BILINEAR)
    # 1,250 x 1,250 pixels are decoded.
    pixels = decoding.decode(encode(large, "jpeg"), 32, 2_000_000)
    plain = decoding.decode(encode(large.reduce(100)), 32)
    np.testing.assert_allclose(pixels.astype(int), plain, atol=4)
    with pytest.raises(decoding.UnreadableImageError) as caught:
        decoding.decode(
            encode(large.reduce(5), "jpeg", progressive=True), 32, 4e6 - 1
        )
    assert caught.value.kind == faults.TOO_LARGE
    assert "2000 x 2000" in str(caught.value)


def test_large_png_matches_its_reduction():
    large = smooth(3, 4).resize((4000, 3000), Image.Resampling.BICUBIC)
    pixels = decoding.decode(encode(large, compress_level=1), 64)
    plain = decoding.decode(encode(large.reduce(10)), 64)
    np.testing.assert_allclose(pixels.astype(int), plain, atol=3)


def test_too_many_pixels_are_refused_before_decoding():
    content = broken_files.png_header(20_000, 20_000)
    content += broken_files.png_chunk(b"IDAT", b"")
    with pytest.raises(decoding.UnreadableImageError, match="20000 x 20000"):
        decoding.decode(content, 32)
    with pytest.raises(decoding.UnreadableImageError) as caught:
        decoding.decode(encode(smooth(9, 9)), 9, 80)
    assert caught.value.kind == faults.TOO_LARGE
    assert "the limit of 80 pixels; scale it down" in str(caught.value)
    with pytest.raises(decoding.UnreadableImageError, match=r"\(--option\)"):
        decoding.decode(encode(smooth(9, 9)), 9, 80, option="--option")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_corrupt_bytes_raise_unreadable_image_error(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encode(Image.fromarray(noise), kind)
    for bad in (b"", b"no image", content[: len(content) // 2]):
        with pytest.raises(decoding.UnreadableImageError):
            decoding.decode(bad, 16)


def test_errors_name_the_path(tmp_path):
    with pytest.raises(UserError, match=r"none\.png: the file is missing"):
        decoding.decode(tmp_path / "none.png", 16)
    path = tmp_path / "bad.png"
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png: cannot be decoded"):
        decoding.decode(path, 16)


@pytest.mark.parametrize("size", [(64, 40), (30, 200)])
def test_gray_matches_rgb(size):
    """Gray images are scaled before their conversion to RGB."""
    rng = np.random.default_rng(0)
    gray = Image.fromarray(
        rng.integers(0, 256, size=size[::-1]).astype(np.uint8)
    )
    for side in (24, 128):
        np.testing.assert_array_equal(
            decoding.decode(encode(gray, "PNG"), side),
            decoding.decode(encode(gray.convert("RGB"), "PNG"), side),
        )


def test_reading_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="not a regular file") as caught:
        decoding.read(tmp_path / "a.png")
    assert caught.value.kind == faults.UNREADABLE
    with pytest.raises(UserError, match="a folder"):
        decoding.read(tmp_path)


NOISY = """
import io, logging, struct, sys, warnings
from PIL import Image
from mixer_jax.data.images import decoding as images

logging.basicConfig()
warnings.simplefilter("default", append=True)
table = b"".join(
    struct.pack("<HHII", tag, 12, 9, 1 << 30) for tag in range(1, 4000)
)
exif = b"Exif\\0\\0II*\\0\\x08\\0\\0\\0" + struct.pack("<H", 3999) + table
for kind, options in (("JPEG", {"exif": exif}), ("TIFF", {})):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind, **options)
    content = file.getvalue()
    # Many samples per pixel, which Pillow logs before it raises an error.
    content = content.replace(
        struct.pack("<HHII", 277, 3, 1, 3), struct.pack("<HHII", 277, 3, 1, 99)
    )
    try:
        images.decode(content, 8)
    except images.UnreadableImageError as error:
        print(error.kind)
file = io.BytesIO()
Image.new("RGB", (16, 16), "red").save(file, "TIFF", compression="tiff_deflate")
content = bytearray(file.getvalue())
with Image.open(file) as opened:
    content[opened.tag_v2[273][0]] = 0  # libtiff prints a message about it
try:
    images.decode(bytes(content), 8)
except images.UnreadableImageError as error:
    print(error.kind)
"""


def test_libraries_print_no_messages():
    done = subprocess.run(
        [sys.executable, "-c", NOISY],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout == "corrupt\ncorrupt\n"
