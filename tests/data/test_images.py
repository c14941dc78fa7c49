import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data import images, table
from mixer_jax.errors import UserError


def encode(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def frame_of(paths):
    rows = [
        (f"s{i}", "query", path, "", "c", "", "train")
        for i, path in enumerate(paths)
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats_give_their_colours(kind):
    image = Image.new("RGB", (40, 40), (200, 40, 90))
    pixels = images.decode(encode(image, kind), 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(
        pixels, np.full((16, 16, 3), (200, 40, 90)), atol=6
    )


def test_same_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    got = images.decode(encode(Image.fromarray(pixels)), 8)
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (1000, 10), (3, 2)])
def test_the_whole_image_is_kept_on_white(size):
    image = Image.new("RGB", size, (0, 0, 255))
    pixels = images.decode(encode(image), 20)
    blue = (pixels[..., 0] < 128).sum()
    width, height = size
    short = max(1, round(20 * min(size) / max(size)))
    assert blue == 20 * short
    assert pixels[9:11, 9:11, 0].min() < 128  # centred
    corner = (0, 10) if width > height else (10, 0)
    assert pixels[corner].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    pixels = images.decode(encode(image.convert(mode)), 4)
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, 3].tolist() == [255, 255, 255]


def test_half_transparent_is_mixed_with_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    pixels = images.decode(encode(image), 4)
    np.testing.assert_allclose(pixels[0, 0], [255, 127, 127], atol=1)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK"])
def test_other_modes_become_rgb(mode):
    image = Image.new("RGB", (8, 8), "white").convert(mode)
    kind = "jpeg" if mode == "CMYK" else "png"
    pixels = images.decode(encode(image, kind), 8)
    assert pixels.min() > 250


def test_sixteen_bits_are_scaled_not_clipped():
    image = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert images.decode(encode(image), 4)[0, 0].tolist() == [128] * 3


def test_exif_rotation_is_undone():
    image = Image.new("RGB", (32, 32), "white")
    image.paste((0, 0, 0), (0, 0, 32, 16))  # black above
    exif = image.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    pixels = images.decode(encode(image, "jpeg", exif=exif), 32)
    assert pixels[16, 28].max() < 40  # black on the right
    assert pixels[16, 4].min() > 215


def test_large_jpeg_is_scaled_truly():
    image = Image.new("RGB", (1600, 1200), "white")
    image.paste((255, 0, 0), (0, 0, 800, 1200))
    pixels = images.decode(encode(image, "jpeg"), 32)
    assert pixels[:4].min() == 255  # the letterbox
    np.testing.assert_allclose(pixels[16, 4], [255, 0, 0], atol=8)
    np.testing.assert_allclose(pixels[16, 28], 255, atol=8)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_corrupt_bytes_are_one_kind_of_error(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encode(Image.fromarray(noise), kind)
    for bad in (b"", b"no image", content[: len(content) // 2]):
        with pytest.raises(images.UnreadableImageError):
            images.decode(bad, 16)


def test_errors_name_the_path(tmp_path):
    with pytest.raises(UserError, match=r"none\.png: the file is missing"):
        images.decode(tmp_path / "none.png", 16)
    path = tmp_path / "bad.png"
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png: cannot be decoded"):
        images.decode(path, 16)


@pytest.mark.parametrize("threads", [1, 3])
def test_check_leaves_out_what_fails(tmp_path, threads):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    good = encode(Image.fromarray(noise))
    paths = [f"{i}.png" for i in range(200)]
    for path in paths:
        (tmp_path / path).write_bytes(good)
    (tmp_path / "3.png").unlink()
    (tmp_path / "150.png").write_bytes(good[:-60])
    # A document without an image, and a file that two rows share.
    frame = frame_of([*paths, "", "3.png"])
    kept, skipped = images.check_images(frame, tmp_path, 0.02, threads)
    assert kept.index.tolist() == [i for i in range(201) if i not in (3, 150)]
    assert (skipped.count, skipped.total) == (3, 202)
    assert "row 4: " in skipped.examples[0]
    assert "3.png: the file is missing" in skipped.examples[0]
    assert "150.png: cannot be decoded" in skipped.examples[1]


def test_check_above_the_share_lists_the_first_ten(tmp_path):
    frame = frame_of([f"{i}.png" for i in range(12)])
    with pytest.raises(UserError) as caught:
        images.check_images(frame, tmp_path, 0.5)
    message = str(caught.value)
    assert "12 of 12 samples" in message
    assert "9.png" in message
    assert "10.png" not in message
    assert "2 more" in message
