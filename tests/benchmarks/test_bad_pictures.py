"""Bad pictures are drawn from a seed, and never crash a decoder."""

import random

import pytest
from PIL import Image

from benchmarks import bad_pictures
from mixer_jax.data.images import decoding, faults


def test_pictures_are_decoded_or_refused():
    rng, kinds = random.Random(3), set()
    for _ in range(200):
        content = bad_pictures.draw(rng)
        try:
            pixels = decoding.decode(content, 8, 50_000_000)
            kinds.add("intact")
            assert pixels.shape == (8, 8, 3)
        except faults.UnreadableImageError as error:
            kinds.add(error.kind)
    assert {
        "intact",
        faults.TRUNCATED,
        faults.CORRUPT,
        faults.TOO_LARGE,
    } < kinds


def test_equal_seeds_draw_equal_pictures():
    one, other = random.Random(5), random.Random(5)
    for _ in range(20):
        assert bad_pictures.draw(one) == bad_pictures.draw(other)


@pytest.mark.parametrize(
    "bomb", [bad_pictures._many_pixels, bad_pictures._many_parts]
)
def test_bombs_are_refused(bomb):
    content = bomb(random.Random(0))
    assert len(content) < 2_000_000
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(content, 8, 50_000_000)
    assert caught.value.kind == faults.TOO_LARGE


def test_a_picture_of_one_color_is_valid(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(bad_pictures.one_color(300))
    with Image.open(path) as image:
        assert image.size == (300, 300)
        assert image.getextrema() == ((0, 0),) * 3
