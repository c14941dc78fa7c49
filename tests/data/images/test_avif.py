"""Frames within AVIF files."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_jax.data.images import avif, decoding, faults, memory
from tests.broken_files import encode, noise


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [(1, 1), (70, 31), (300, 500)])
def test_the_size_of_a_frame_is_read(mode, size):
    exif = Image.Exif()
    exif[0x010E] = "a\n\x0bcaption" * 20
    image = Image.new(mode, size)
    content = encode(image, "avif", speed=10, exif=exif, xmp=b"\x0a" * 99)
    assert avif.coded_pixels(content) == size[0] * size[1]


def test_a_frame_larger_than_the_file_declares_is_counted():
    content = bytearray(encode(Image.new("RGB", (400, 300)), "avif", speed=10))
    struct.pack_into(">II", content, content.index(b"ispe") + 8, 64, 48)
    decoding.decode(bytes(content), 32)
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(bytes(content), 32, 10_000)
    assert caught.value.kind == faults.TOO_LARGE
    assert "64 x 48 pixels" in str(caught.value)
    assert "120000 pixels" in str(caught.value)


def test_an_animation_takes_the_whole_budget(monkeypatch):
    frames = [noise(16, seed) for seed in range(3)]
    content = encode(frames[0], "avif", save_all=True, append_images=frames[1:])
    assert avif.coded_pixels(content) is None
    budget = memory.Budget(1 << 20)
    monkeypatch.setattr(memory, "BUDGET", budget)
    decoding.decode(content, 16)
    assert budget.peak == budget.total


CONTENT = encode(noise(20), "avif")


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, 500), patch=st.binary(max_size=30))
def test_damage_is_a_size_or_none(place, patch):
    broken = CONTENT[:place] + patch + CONTENT[place + len(patch) :]
    found = avif.coded_pixels(broken)
    assert found is None or found > 0
    assert avif.coded_pixels(patch) is None
