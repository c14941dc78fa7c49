"""Small JPEG 2000 files whose structures need gigabytes are refused."""

import io
import struct
import time

import pytest
from PIL import Image

from mixer_jax.data.images import decoding, faults, jpeg2000, memory
from tests.broken_files import encode, noise

LIMIT = 1_000_000  # pixels


@pytest.fixture(autouse=True)
def budget(monkeypatch):
    total = memory.BYTES_PER_PIXEL * LIMIT
    budget = memory.Budget(total)
    monkeypatch.setattr(memory, "BUDGET", budget)
    return budget


def plain(**options):
    options = {"no_jp2": True, "num_resolutions": 1, **options}
    return encode(Image.new("RGB", (16, 16)), "jpeg2000", **options)


def tiled(content, size, tile):
    """Returns a file with its declared image and tile sizes replaced."""
    content, place = bytearray(content), content.index(jpeg2000.START) + 8
    struct.pack_into(">II", content, place, *size)
    struct.pack_into(">II", content, place + 16, *tile)
    return bytes(content)


def styled(content, block=4, precincts=b""):
    """Returns a file with this coding style; `block` is log2(side) - 2."""
    place = content.index(b"\xff\x52")
    style = bytearray(content[place : place + 14])
    style[4] |= bool(precincts)
    style[10:12] = block, block
    style += precincts
    struct.pack_into(">H", style, 2, len(style) - 2)
    return content[:place] + bytes(style) + content[place + 14 :]


def component_styled(content):
    """Returns a file with one-pixel blocks, declared in its tile's header."""
    segment = struct.pack(
        ">BBHBBBBBBBB", 0xFF, 0x53, 10, 0, 1, 0, 4, 4, 0, 1, 0
    )
    place = content.index(b"\xff\x93")
    return content[:place] + segment + content[place:]


def layered(content, size, tile):
    """Returns a file that declares 65,535 layers."""
    place = content.index(b"\xff\x52") + 6
    content = content[:place] + b"\xff\xff" + content[place + 2 :]
    return tiled(content, size, tile)


def with_components(count):
    """Returns a file whose codestream has more components than declared."""
    content = encode(Image.new("RGB", (16, 16)), "jpeg2000")
    place = content.index(jpeg2000.START)
    sizes = bytearray(content[place + 4 : place + 42])
    struct.pack_into(">H", sizes, 0, 38 + 3 * count)
    struct.pack_into(">IIIIH", sizes, 20, 1, 1, 0, 0, count)
    stream = content[place : place + 4] + bytes(sizes)
    stream += b"\7\1\1" * count + content[place + 51 :]
    head = content[: place - 8] + struct.pack(">I4s", 8, b"free")
    return head + struct.pack(">I4s", 8 + len(stream), b"jp2c") + stream


@pytest.mark.parametrize(
    "content",
    [
        tiled(plain(), (255, 256), (1, 1)),
        tiled(plain(), (65_535, 1), (1, 1)),
        tiled(styled(plain(), 4, b"\0"), (256, 256), (256, 256)),
        tiled(styled(plain(), 0), (900, 900), (900, 900)),
        tiled(component_styled(plain()), (256, 256), (256, 256)),
        with_components(16_384),
        layered(styled(plain(), 4, b"\x77"), (900, 900), (900, 900)),
        layered(plain(), (100, 100), (10, 10)),
    ],
    ids=["tiles", "row", "precincts", "blocks", "component", "components"]
    + ["layers", "tiled layers"],
)
def test_huge_structures_are_refused_before_allocation(budget, content):
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(content, 32, LIMIT)
    assert caught.value.kind == faults.TOO_LARGE
    assert "needs the memory of" in str(caught.value)
    assert budget.peak == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_jp2": False},
        {"tile_size": (256, 256)},
        {"num_resolutions": 6},
        {"num_resolutions": 6, "codeblock_size": (32, 32)},
        {"num_resolutions": 3, "precinct_size": (128, 128)},
        {"num_resolutions": 6, "quality_layers": [40, 20, 10, 5, 2]},
    ],
)
def test_estimate_of_a_plain_file_is_close_to_its_pixels(options):
    content = encode(
        noise(600),
        "jpeg2000",
        **{"no_jp2": True, "num_resolutions": 1} | options,
    )
    counted = jpeg2000.pixels(content)
    assert 600 * 600 < counted < 1.3 * 600 * 600
    assert decoding.decode(content, 32, LIMIT).shape == (32, 32, 3)


def test_segments_copied_for_every_tile_are_counted():
    content = tiled(plain(), (256, 256), (16, 16))
    place = content.index(b"\xff\x52")
    segment = struct.pack(">BBH", 0xFF, 0x74, 60_002) + bytes(60_000)
    more = content[:place] + segment + content[place:]
    counted = [jpeg2000.pixels(each) for each in (content, more)]
    assert counted[1] - counted[0] >= 256 * 60_000 // 24


def test_missing_header_raises_unreadable_image_error():
    content = plain()
    for cut in range(4, 60):
        with pytest.raises(faults.UnreadableImageError):
            decoding.decode(content[:cut], 8, LIMIT)
    with pytest.raises(faults.UnreadableImageError):
        decoding.decode(tiled(content, (16, 16), (0, 0)), 8, LIMIT)
    assert Image.open(io.BytesIO(content)).size == (16, 16)


def test_pixels_that_look_like_a_codestream_are_ignored():
    gray = Image.new("LA", (64, 64), (0x4F, 255))
    gray.paste((0x51, 255), (1, 0, 40, 64))
    content = encode(gray, "tga")
    assert jpeg2000.START in content
    decoding.decode(content, 8, LIMIT)


def _many(count):
    """Yields files with many codestreams, coding styles or segments."""
    content = plain()
    sizes = content[: 4 + struct.unpack_from(">H", content, 4)[0]]
    place = content.index(b"\xff\x52")
    style = content[place : place + 14]
    yield content * 200, "codestreams"
    yield content + sizes * count + bytes(5_000_000), "segments"
    yield content + style * 20 * count, "coding styles"
    layers = (struct.pack(">H", number) for number in range(count))
    different = b"".join(style[:6] + each + style[8:] for each in layers)
    yield content + different, "different coding styles"
    empty = b"\xff\x64\0\2" * 20 * count
    yield content[:place] + empty + content[place:], "segments"


@pytest.mark.parametrize(("content", "name"), [*_many(10_000)])
def test_too_many_parts_are_refused_within_seconds(content, name):
    start = time.process_time()
    with pytest.raises(faults.UnreadableImageError, match=f"0 {name};"):
        decoding.decode(content, 8, LIMIT)
    assert time.process_time() - start < 10
