"""Broken files of every kind, each called what it is."""

import pickle

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data import faults, images
from mixer_jax.errors import UserError
from tests import broken_files


@pytest.mark.parametrize("kind", faults.KINDS)
def test_a_file_of_every_kind(tmp_path, kind):
    for number in range(12):
        path = tmp_path / broken_files.write(tmp_path, kind, number)
        with pytest.raises(UserError) as caught:
            images.decode(path, 32, broken_files.ALLOWED)
        assert caught.value.kind == kind, (number, caught.value)
        assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        *((name, {}) for name in broken_files.FORMATS),
        ("jpeg", {"progressive": True}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tiff", {"compression": "jpeg"}),
    ],
)
@pytest.mark.parametrize("size", [8, 32])
def test_a_file_that_is_cut_anywhere_fails_or_has_all_pixels(
    format_, options, size
):
    content = broken_files.encode(broken_files.noise(40), format_, **options)
    whole = images.decode(content, size)
    places = np.linspace(16, len(content) - 1, 60).astype(int)
    kinds = []
    for place in [*places, *range(len(content) - 24, len(content))]:
        try:
            pixels = images.decode(content[:place], size)
        except faults.UnreadableImageError as error:
            kinds.append(error.kind)
        else:
            np.testing.assert_array_equal(pixels, whole, f"cut at {place}")
    assert len(kinds) > 50
    assert set(kinds) == {faults.TRUNCATED}


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_cut_jpeg_with_a_thumbnail_is_truncated(options):
    thumbnail = broken_files.encode(broken_files.noise(16), "jpeg")
    content = broken_files.encode(
        broken_files.noise(200), "jpeg", comment=thumbnail, **options
    )
    assert b"\xff\xd9" in content[: len(content) // 2]
    with pytest.raises(faults.UnreadableImageError) as caught:
        images.decode(content[: len(content) // 2], 16)
    assert caught.value.kind == faults.TRUNCATED


def test_the_damage_is_not_the_end_of_the_file():
    content = bytearray(broken_files.encode(broken_files.noise(64), "png"))
    content[content.index(b"IDAT") + 4] ^= 0xFF
    with pytest.raises(faults.UnreadableImageError) as caught:
        images.decode(bytes(content), 16)
    assert caught.value.kind == faults.CORRUPT


def test_pixels_of_floating_point_are_unsupported():
    image = Image.fromarray(np.ones((4, 4), np.float32))
    with pytest.raises(faults.UnreadableImageError) as caught:
        images.decode(broken_files.encode(image, "tiff"), 4)
    assert caught.value.kind == faults.UNSUPPORTED


def test_errors_travel_between_processes():
    error = faults.UnreadableImageError("a.png: gone.", faults.MISSING)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kind) == ("a.png: gone.", faults.MISSING)
