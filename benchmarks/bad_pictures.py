"""Pictures that a service must refuse or survive, drawn from a seed.

Most are valid files of all formats and pixel kinds, with a random defect:
truncation, changed bytes, another format's signature, a false size, or trailing
data. Others are bombs: small files that claim a lot of memory or unpack to it.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, PngImagePlugin

_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM")
_STARTS += (b"RIFF\0\0\0\0WEBP", b"II*\0", b"\0\0\0 ftypavif", b"<svg")
_ORIENTATION = 0x0112  # EXIF tag
_BOMB = 14_000  # pixels per side


def draw(rng: random.Random) -> bytes:
    """Returns a picture, which is defective in four out of five cases."""
    if rng.random() < 0.05:
        return rng.choice(_BOMBS)(rng)
    content = rng.choice(_KINDS)(rng)
    return rng.choice(_DEFECTS)(content, rng)


def _pixels(rng: random.Random, channels: int, kind: type = np.uint8):
    size = rng.choice([(1, 1), (1, 300), (300, 1), (17, 31), (64, 48)])
    most = np.iinfo(kind).max
    draws = np.random.default_rng(rng.getrandbits(32))
    shape = (*size, channels) if channels > 1 else size
    return draws.integers(0, most, shape, kind, endpoint=True)


def _save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png(rng: random.Random) -> bytes:
    mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    if mode == "I;16":
        return _save(Image.fromarray(_pixels(rng, 1, np.uint16)), "png")
    return _save(Image.fromarray(_pixels(rng, 4)).convert(mode), "png")


def _jpeg(rng: random.Random) -> bytes:
    mode = rng.choice(["L", "RGB", "CMYK"])
    image = Image.fromarray(_pixels(rng, 3)).convert(mode)
    return _save(image, "jpeg", progressive=rng.random() < 0.5)


def _rotated(rng: random.Random) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = rng.choice([*range(1, 9), 0, 9, 65_535])
    kind = rng.choice(["jpeg", "png", "webp"])
    return _save(Image.fromarray(_pixels(rng, 3)), kind, exif=exif.tobytes())


def _animated(rng: random.Random) -> bytes:
    frames = [Image.fromarray(_pixels(rng, 3)) for _ in range(3)]
    frames = [frame.resize((20, 10)) for frame in frames]
    kind = rng.choice(["gif", "webp", "png"])
    options = {"save_all": True, "append_images": frames[1:], "duration": 9}
    return _save(frames[0], kind, **options)


def _plain(rng: random.Random) -> bytes:
    kind = rng.choice(["webp", "bmp", "gif", "avif", "tiff", "ico", "ppm"])
    return _save(Image.fromarray(_pixels(rng, 3)).resize((20, 10)), kind)


def _noise(rng: random.Random) -> bytes:
    return rng.choice([b"", *_STARTS]) + rng.randbytes(rng.randrange(200))


def _intact(content: bytes, rng: random.Random) -> bytes:
    return content


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _changed(content: bytes, rng: random.Random) -> bytes:
    """Changes a few bytes, most of them in the header."""
    changed = bytearray(content)
    reach = len(content) if rng.random() < 0.5 else min(len(content), 64)
    for _ in range(rng.randint(1, 8) if reach else 0):
        changed[rng.randrange(reach)] = rng.randrange(256)
    return bytes(changed)


def _disguised(content: bytes, rng: random.Random) -> bytes:
    start = rng.choice(_STARTS)
    return start + content[len(start) :]


def _resized(content: bytes, rng: random.Random) -> bytes:
    """Writes another size at the offset where the format stores it."""
    side = rng.choice([0, 1, 8_000, 65_535, 2**31 - 1, 2**32 - 1])
    if content.startswith(_STARTS[0]):
        return content[:16] + struct.pack(">II", side, side) + content[24:]
    place, form = {b"GIF8": (6, "<HH"), b"RIFF": (26, "<HH")}.get(
        content[:4], (18, "<II")
    )
    if content.startswith(b"\xff\xd8"):
        start = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
        place, form = start + 5, ">HH"
    if "H" in form:
        side = min(side, 65_535)
    size = struct.pack(form, side, side)
    return content[:place] + size + content[place + len(size) :]


def _followed(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice([content, rng.randbytes(100), b"\0" * 9_999])


def one_color(side: int) -> bytes:
    """Returns a small PNG file of side x side pixels in one color."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packer, row = zlib.compressobj(9), bytes(1 + 3 * side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return _STARTS[0] + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def _many_pixels(rng: random.Random) -> bytes:
    if not _MADE:
        _MADE.append(one_color(_BOMB))
    return _MADE[0]


def _long_text(rng: random.Random) -> bytes:
    """Returns a PNG whose texts or color profiles unpack to 200 MB."""
    packed = zlib.compress(bytes(20_000_000), 9)
    text = PngImagePlugin.PngInfo()
    kind = rng.choice([b"zTXt", b"iCCP"])
    for number in range(10):
        text.add(kind, b"a%d\0\0" % number + packed)
    return _save(Image.new("RGB", (4, 4)), "png", pnginfo=text)


def _many_parts(rng: random.Random) -> bytes:
    """Returns a PNG or a JPEG with 100,000 empty comments."""
    if rng.random() < 0.5:
        plain = _save(Image.new("RGB", (4, 4)), "png")
        return plain[:33] + _chunk(b"tEXt", b"a\0") * 100_000 + plain[33:]
    plain = _save(Image.new("RGB", (4, 4)), "jpeg")
    return plain[:2] + b"\xff\xfe\0\2" * 100_000 + plain[2:]


Kind = Callable[[random.Random], bytes]
_MADE: list[bytes] = []
_KINDS: tuple[Kind, ...] = (_png, _jpeg, _rotated, _animated, _plain, _noise)
_DEFECTS = (_intact, _cut, _changed, _disguised, _resized, _followed)
_BOMBS: tuple[Kind, ...] = (_many_pixels, _long_text, _many_parts)
