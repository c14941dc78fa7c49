"""Memory estimates, and the budget that threads share."""

import contextlib
import io
import platform
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mixer_jax.data.images import decoding, faults, memory, squares
from tests import broken_files
from tests.broken_files import encode

LIMIT = 10_000  # pixels
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def budget(monkeypatch):
    """A budget for one image of `LIMIT` pixels."""
    total = memory.BYTES_PER_PIXEL * LIMIT
    budget = memory.Budget(total)
    monkeypatch.setattr(memory, "BUDGET", budget)
    return budget


def test_header_of_a_huge_png_allocates_nothing(budget, monkeypatch):
    monkeypatch.setattr(decoding, "_open", lambda *_: 1 / 0)
    scanlines = zlib.compress(bytes((14_000 * 4 + 1) * 20))
    content = broken_files.png_header(14_000, 14_000)
    content += broken_files.png_chunk(b"IDAT", scanlines)
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(content, 32, 50_000_000)
    assert caught.value.kind == faults.TOO_LARGE
    assert "14000 x 14000" in str(caught.value)
    assert "50 megapixels" in str(caught.value)
    assert budget.peak == 0


def huge(kind):
    """Returns a file of a few bytes that declares 16000 x 16000 pixels."""
    if kind == "png":
        return broken_files.png_header(16_000, 16_000) + broken_files.png_chunk(
            b"IDAT", b""
        )
    if kind == "webp":
        side = (16_000 - 1).to_bytes(3, "little")
        chunk = b"VP8X" + struct.pack("<II", 10, 0x10) + side + side
        return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk
    content = bytearray(encode(broken_files.noise(8), kind))
    place, form = {
        "gif": (6, "<HH"),
        "bmp": (18, "<ii"),
        "jpeg": (content.find(b"\xff\xc2") + 5, ">HH"),
        "avif": (content.find(b"ispe") + 8, ">II"),
    }[kind]
    if kind == "jpeg":
        content = bytearray(
            encode(broken_files.noise(8), kind, progressive=True)
        )
        place = content.find(b"\xff\xc2") + 5
    struct.pack_into(form, content, place, 16_000, 16_000)
    return bytes(content)


@pytest.mark.parametrize("kind", [name.lower() for name in FORMATS])
def test_tiny_file_declaring_a_huge_size_is_refused(budget, kind):
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(huge(kind), 32, 50_000_000)
    assert caught.value.kind == faults.TOO_LARGE, caught.value
    assert budget.peak == 0


def test_image_inside_an_icon_is_counted(budget):
    icon = encode(Image.new("RGBA", (48, 48)), "ico", sizes=[(48, 48)])
    assert decoding.decode(icon, 48, LIMIT).shape == (48, 48, 3)
    content = icon[: icon.index(b"\x89PNG")]
    content += broken_files.png_header(14_000, 14_000)
    content += broken_files.png_chunk(b"IDAT", b"")
    with pytest.raises(faults.UnreadableImageError, match="14000 x 14000"):
        decoding.decode(content, 32, LIMIT)


def test_tiff_tiles_are_counted():
    tags = {65000: 16_000, 65001: 16_000}
    content = encode(Image.new("L", (32, 32)), "tiff", tiffinfo=tags)
    for tag, tile in ((65000, 322), (65001, 323)):
        content = content.replace(
            struct.pack("<H", tag), struct.pack("<H", tile)
        )
    with pytest.raises(faults.UnreadableImageError, match="256 megapixels"):
        decoding.decode(content, 32, LIMIT)


def test_jpeg_with_separate_scans_is_counted_unscaled():
    image = Image.new("RGB", (400, 400))
    plain = encode(image, "jpeg")
    # Make the first scan declare only one of the three components.
    place = plain.index(b"\xff\xda") + 4
    separate = plain[:place] + b"\1" + plain[place + 1 :]
    for content, pixels in ((plain, 50 * 50), (separate, 400 * 400)):
        with Image.open(io.BytesIO(content)) as opened:
            opened.draft("RGB", (32, 32))
            found = memory.estimate(opened, content, (400, 400))
        assert found[0] == pixels
        assert found[1] > pixels * 4


def test_png_with_two_headers_is_refused(budget):
    header = broken_files.png_header(10, 10)
    second = broken_files.png_header(4000, 4000)[8:]
    content = header + second + broken_files.png_chunk(b"IDAT", b"")
    with pytest.raises(faults.UnreadableImageError, match="conflicting sizes"):
        decoding.decode(content, 8, LIMIT)


def test_memory_of_compressed_png_texts_is_reserved(budget):
    info = PngImagePlugin.PngInfo()
    for number in range(3):
        info.add_text(f"k{number}", " " * 100_000, zip=True)
    content = encode(Image.new("RGB", (8, 8)), "png", pnginfo=info)
    assert memory.declared(content)[1] > 3 << 20


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
@pytest.mark.parametrize("rotated", [False, True])
def test_estimate_covers_pixels_and_conversion(kind, mode, rotated):
    image = Image.new("RGBA", (300, 200), (9, 80, 200, 50))
    if mode == "I;16":
        image = Image.fromarray(np.full((200, 300), 40_000, np.uint16))
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    try:
        content = encode(image, kind, **({"exif": exif} if rotated else {}))
    except (OSError, ValueError):
        pytest.skip("the format does not support this mode")
    budget = memory.Budget(1 << 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "BUDGET", budget)
        decoding.decode(content, 300)
    pixels = 300 * 200
    stored = {"L": 1, "P": 1, "I;16": 2}.get(mode, 3)
    assert budget.peak > pixels * stored
    allowed = memory.BYTES_PER_PIXEL * (pixels + 300 * 300)
    assert budget.peak <= allowed + len(content)


def test_compositing_in_bands_changes_nothing(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (97, 61, 4), np.uint8)
    for mode in ("RGBA", "LA", "P", "1", "I;16"):
        if mode == "I;16":
            image = Image.fromarray(noise[..., 0].astype(np.uint16) * 250)
        else:
            image = Image.fromarray(noise).convert(mode)
        whole = decoding.decode(encode(image), 40)
        with monkeypatch.context() as patch:
            patch.setattr(squares, "_BAND", 300)
            np.testing.assert_array_equal(
                decoding.decode(encode(image), 40), whole
            )


def test_reservations_are_first_in_first_out():
    budget = memory.Budget(10)
    order, threads = [], []

    def take(size, held):
        with budget.reserve(size):
            order.append(size)
            held.wait()

    first, rest = threading.Event(), threading.Event()
    rest.set()
    for size, held in ((6, first), (7, rest), (1, rest)):
        thread = threading.Thread(target=take, args=(size, held))
        thread.start()
        threads.append(thread)
        while len(order) + len(budget._waiting) < len(threads):
            pass
    # The third request would fit, but must wait for the second.
    assert order == [6]
    first.set()
    for thread in threads:
        thread.join()
    assert order[0] == 6
    assert budget.peak <= 10


def test_reservation_above_the_budget_runs_alone():
    budget = memory.Budget(10)
    with budget.reserve(25):
        assert not budget._fits(1)
    with budget.reserve(10):
        assert budget.peak == 10


def test_reservation_is_released_after_an_error(budget):
    content = encode(broken_files.noise(32))[:-40]
    for _ in range(3):
        with pytest.raises(faults.UnreadableImageError):
            decoding.decode(content, 16, LIMIT)
    assert budget._fits(budget.total)


def test_threads_stay_within_the_budget(budget):
    image = Image.new("RGBA", (100, 100), (1, 2, 3, 40))
    contents = [encode(image, kind) for kind in ("png", "webp", "gif")] * 8
    threads = [
        threading.Thread(target=decoding.decode, args=(content, 16, LIMIT))
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < budget.peak <= budget.total


def decode_anything(content, budget):
    with contextlib.suppress(faults.UnreadableImageError):
        assert decoding.decode(content, 16, LIMIT).shape == (16, 16, 3)
    assert budget.peak <= budget.total
    assert budget._fits(budget.total)


@quick
@given(content=st.binary(max_size=200))
def test_random_bytes_decode_or_raise_one_error(budget, content):
    decode_anything(content, budget)


SAMPLES = [encode(broken_files.noise(40), kind) for kind in (*FORMATS, "tiff")]


@quick
@given(
    content=st.sampled_from(SAMPLES),
    cut=st.integers(0, 6000),
    tail=st.binary(max_size=40),
)
def test_random_prefixes_decode_or_raise_one_error(budget, content, cut, tail):
    decode_anything(content[:cut] + tail, budget)


@quick
@given(
    content=st.sampled_from(SAMPLES),
    place=st.integers(0, 80),
    patch=st.binary(min_size=1, max_size=12),
)
def test_random_headers_decode_or_raise_one_error(
    budget, content, place, patch
):
    broken = content[:place] + patch + content[place + len(patch) :]
    decode_anything(broken, budget)


RETAINED = """
import concurrent.futures, io, os
from PIL import Image
from mixer_jax.data.images import decoding as images, memory

memory.return_freed_blocks()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

contents = []
for kind in ("PNG", "WEBP", "GIF"):
    file = io.BytesIO()
    Image.new("L", (3000, 3000)).save(file, kind, method=0)
    contents.append(file.getvalue())
images.decode(contents[0], 32)
before = resident()
with concurrent.futures.ThreadPoolExecutor(8) as threads:
    list(threads.map(lambda i: images.decode(contents[i % 3], 32), range(48)))
    print((resident() - before) >> 20)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries differ"
)
def test_threads_keep_no_memory_of_decoded_images():
    done = subprocess.run(
        [sys.executable, "-c", RETAINED],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 64  # MiB; about what one decode needs


KEPT = """
import ctypes, sys
from mixer_jax import main
from mixer_jax.data.images import memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

class Info(ctypes.Structure):  # struct mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]

libc.mallinfo2.restype = Info

if "server" in sys.argv:
    memory.return_freed_blocks()
before = libc.mallinfo2().d  # number of blocks mapped from the system
libc.free(libc.malloc(16 << 20))
block = libc.malloc(8 << 20)
print(libc.mallinfo2().d - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries differ"
)
@pytest.mark.parametrize(
    ("process", "mapped"), [("training", 0), ("server", 1)]
)
def test_only_a_server_returns_freed_blocks(process, mapped):
    done = subprocess.run(
        [sys.executable, "-c", KEPT, process],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == mapped


LINE = """
import re, sys
from mixer_jax.data.images import decoding as images
from mixer_jax.data.images import memory as decode_memory

def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s*(\\d+)", file.read())[1]) << 10

before = peak()
images.decode(sys.argv[1], 8)
print((peak() - before) / decode_memory.BUDGET.peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units differ")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("size", [(12_000_000, 1), (1, 12_000_000)])
def test_estimate_covers_an_image_of_one_row_or_column(size, mode, tmp_path):
    path = tmp_path / "line.png"
    Image.new(mode, size).save(path)
    done = subprocess.run(
        [sys.executable, "-c", LINE, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.1 < float(done.stdout) < 1.02
