"""Unusable image files of every kind in `faults`."""

import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

from mixer_jax.data.images import faults

SIDE = 128  # pixels per side of files larger than `ALLOWED`
ALLOWED = 64 * 64  # pixels
_PNG = b"\x89PNG\r\n\x1a\n"
_FOREIGN = (
    b"no image",
    b"\0" * 64,
    b"%PDF-1.7\n",
    b"<html></html>",
    b'{"a":1}',
)
_UNSUPPORTED = (
    b"\0\0\0\x18ftypheic\0\0\0\0",
    b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    b"\xff\x0a\xfa\x1f\x41\x10\x80",
    b"v/1\x01\x02\0\0\0channels",
)
FORMATS = ("png", "jpeg", "gif", "webp", "bmp", "tiff", "avif", "ppm")


def encode(image: Image.Image, kind: str = "png", **options) -> bytes:
    """Returns an image encoded in a file format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(side: int, seed: int = 0) -> Image.Image:
    """Returns an image of noise, which no format compresses well."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG file."""
    sum_ = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG header for an image of this size, without pixels."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _PNG + png_chunk(b"IHDR", data)


def without_area(number: int) -> bytes:
    """Returns a file whose header has a width of 0."""
    if number % 3 == 0:
        empty = png_chunk(b"IDAT", zlib.compress(b""))
        return png_header(0, 4) + empty + png_chunk(b"IEND", b"")
    if number % 3 == 1:
        content = bytearray(encode(noise(8), "bmp"))
        content[18:22] = bytes(4)
        return bytes(content)
    content = bytearray(encode(noise(8), "jpeg"))
    frame = content.index(b"\xff\xc0")
    content[frame + 7 : frame + 9] = bytes(2)
    return bytes(content)


def too_large(number: int) -> bytes:
    """Returns a valid file with more pixels than `ALLOWED`."""
    image = Image.new("RGB", (SIDE, SIDE), (number % 256, 0, 0))
    kind, options = (
        ("png", {}),
        ("webp", {}),
        ("jpeg", {"progressive": True}),
    )[number % 3]
    return encode(image, kind, **options)


def corrupt(number: int) -> bytes:
    """Returns a file of the right length with damaged content."""
    kind = ("png", "jpeg", "webp")[number % 3]
    content = bytearray(encode(noise(16, number), kind))
    if kind == "png":
        start = content.index(b"IDAT") + 4
        content[start : start + 40] = b"\xff" * 40
    elif kind == "jpeg":
        start = content.index(b"\xff\xc4") + 4  # the Huffman codes' lengths
        content[start : start + 17] = b"\xff" * 17
    else:
        start = content.index(b"VP8 ") + 8
        content[start:] = bytes(len(content) - start)
    return bytes(content)


def truncated(number: int) -> bytes:
    """Returns the first half of a file."""
    content = encode(noise(16, number), FORMATS[number % 4])
    return content[: len(content) // 2]


def write(folder: pathlib.Path, kind: str, number: int) -> str:
    """Writes a broken file into a folder; returns its name."""
    name = f"{kind.replace(' ', '-')}-{number}"
    path = folder / name
    if kind == faults.MISSING:
        return name
    if kind == faults.FOLDER:
        path.mkdir()
    elif kind == faults.UNREADABLE:
        path.symlink_to(name)  # a loop
    else:
        path.write_bytes(content(kind, number))
    return name


def content(kind: str, number: int) -> bytes:
    """Returns the bytes of a broken file, for kinds that have content."""
    make = {
        faults.EMPTY: lambda _: b"",
        faults.NOT_AN_IMAGE: lambda n: _FOREIGN[n % len(_FOREIGN)],
        faults.UNSUPPORTED: lambda n: _UNSUPPORTED[n % len(_UNSUPPORTED)],
        faults.NO_AREA: without_area,
        faults.TOO_LARGE: too_large,
        faults.TRUNCATED: truncated,
        faults.CORRUPT: corrupt,
    }
    return make[kind](number)
