"""Sizes of the frames in AVIF files."""

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_jax.data.images import avif, decoding, faults, memory
from tests.broken_files import encode, noise


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [(1, 1), (70, 31), (300, 500)])
def test_frame_size_is_read(mode, size):
    exif = Image.Exif()
    exif[0x010E] = "a\n\x0bcaption" * 20
    image = Image.new(mode, size)
    content = encode(image, "avif", speed=10, exif=exif, xmp=b"\x0a" * 99)
    assert avif.coded_pixels(content) == size[0] * size[1]


def test_frame_larger_than_the_declared_size_is_refused():
    content = bytearray(encode(Image.new("RGB", (400, 300)), "avif", speed=10))
    struct.pack_into(">II", content, content.index(b"ispe") + 8, 64, 48)
    decoding.decode(bytes(content), 32)
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(bytes(content), 32, 10_000)
    assert caught.value.kind == faults.TOO_LARGE
    assert "64 x 48 pixels" in str(caught.value)
    assert "120000 pixels" in str(caught.value)


def test_animation_reserves_the_whole_budget(monkeypatch):
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
def test_damaged_file_has_a_size_or_none(place, patch):
    broken = CONTENT[:place] + patch + CONTENT[place + len(patch) :]
    found = avif.coded_pixels(broken)
    assert found is None or found > 0
    assert avif.coded_pixels(patch) is None


def _box(kind, data):
    return struct.pack(">I4s", 8 + len(data), kind) + data


def _with_items(count, length, frame):
    """Returns a file whose items all refer to the same OBUs."""
    places = bytes(4) + b"\x44\0" + struct.pack(">H", count)
    kinds = bytes(4) + struct.pack(">H", count)
    for item in range(1, count + 1):
        places += struct.pack(">HHHII", item, 0, 1, 16, length)
        entry = struct.pack(">LHH4s", 2 << 24, item, 0, frame)
        kinds += _box(b"infe", entry)
    meta = bytes(4) + _box(b"iinf", kinds) + _box(b"iloc", places)
    units = _box(b"mdat", b"\x12\0" * (length // 2))
    return _box(b"ftyp", b"avif\0\0\0\0") + units + _box(b"meta", meta)


PADDED = _box(b"ftyp", b"avif\0\0\0\0") + _box(b"free", bytes(15_000_000))
SMALL = _box(b"iinf", bytes(6)) + _box(b"iloc", bytes(8))


@pytest.mark.parametrize(
    "content",
    [
        PADDED + _box(b"ipco", b"") * 3000,
        PADDED + _box(b"meta", bytes(4) + SMALL) * 3000,
        _with_items(3000, 15_000_000, b"mime"),
        _with_items(1, 15_000_000, b"av01"),
        _with_items(30, 1_000_000, b"av01"),
    ],
)
def test_hostile_boxes_are_rejected_quickly(content):
    start = time.process_time()
    with pytest.raises(faults.UnreadableImageError):
        decoding.decode(content, 16)
    assert avif.coded_pixels(content) is None
    assert time.process_time() - start < 5


def test_deeply_nested_boxes_are_counted():
    content = PADDED[:16] + struct.pack(">I4s", 0, b"moov") * 50_000
    assert sum(1 for _ in avif.entries(content)) == 50_001
