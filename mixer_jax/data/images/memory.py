"""Estimates the memory of image decoding and limits it per process.

A file of a few kilobytes can declare gigabytes of pixels, and several threads
decode in parallel. Each thread therefore waits until the estimated peak memory
for its image is free, and reserves it before decoding.
"""

import collections
import contextlib
import ctypes
import struct
import threading
from collections.abc import Iterator

from PIL import Image

from mixer_jax.data.images import avif, jpeg2000, parts
from mixer_jax.runtime.errors import UserError

# Upper bound on the memory for decoding any format, in bytes per pixel.
BYTES_PER_PIXEL = 24
# Default maximum number of pixels of an image.
MAX_PIXELS = 200_000_000
_MAX_MEGAPIXELS = 10_000
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}
_OTHER = 4  # bytes per pixel in Pillow's other modes
# Bytes per pixel that a decoder needs in addition to Pillow's pixels.
_HELD = {"PNG": 0, "JPEG": 0, "MPO": 0, "GIF": 2, "BMP": 3, "WEBP": 12}
_HELD_BY_OTHERS = 16
# Bytes per row and column of a PNG, which matter if it has only one row or
# column: Pillow stores a pointer per row, and the decoder buffers two rows.
_LINE = 24
_M_MMAP_THRESHOLD, _LARGE = -3, 4 << 20  # option of glibc's mallopt; bytes
_UNKNOWN = 1 << 62  # bytes: reserves the whole budget
_COEFFICIENT = 2  # bytes per JPEG coefficient
_TEXT, _MAX_TEXT = 1 << 20, 64 << 20  # Pillow's limits per chunk and per PNG
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
_MAY_ROTATE = (b"eXIf", b"tEXt", *_COMPRESSED)
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
_ORIENTATION = 0x0112  # EXIF tag
_ICON_START = b"\0\0\1\0"


class Budget:
    """Memory budget shared by the threads of a process, first in, first out.

    Attributes:
      total: the budget in bytes; a larger reservation takes all of it.
      peak: the maximum number of bytes reserved at a time so far.
    """

    def __init__(self, total: int):
        """Initializes the budget with its total in bytes."""
        self.total = total
        self.peak = 0
        self._used = 0
        self._changed = threading.Condition()
        self._waiting = collections.deque()

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free and reserves them.

        Reservations must not be nested: two threads could deadlock.
        """
        size = self._acquire(size)
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()

    def _acquire(self, size: int) -> int:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                # First in, first out: small images must not starve large ones.
                self._changed.wait_for(
                    lambda: self._waiting[0] is ticket and self._fits(size)
                )
                size = min(size, self.total)
                self._used += size
                self.peak = max(self.peak, self._used)
            finally:  # The wait may be interrupted.
                self._waiting.remove(ticket)
                self._changed.notify_all()
        return size

    def _fits(self, size: int) -> bool:
        return self._used + min(size, self.total) <= self.total


BUDGET = Budget(BYTES_PER_PIXEL * MAX_PIXELS)


def return_freed_blocks() -> None:
    """Makes the C library return large blocks to the system once freed.

    By default, glibc learns to keep freed blocks of up to 32 MiB per thread.
    This memory is not in any reservation and grows with every thread. A server
    cannot afford that. Training must not call this: its step allocates such
    blocks repeatedly, and each return makes the next step slower.
    """
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def allow(megapixels: float, option: str) -> None:
    """Sets this process's budget to the memory for one image of a given size.

    Args:
      megapixels: the size of the largest image to decode.
      option: the option that sets this size, for the error message.

    Raises:
      UserError: if the size is out of range.
    """
    if not 0 < megapixels <= _MAX_MEGAPIXELS:
        raise UserError(
            f"{option} is {megapixels:g}; it must be more than 0 and at most "
            f"{_MAX_MEGAPIXELS}."
        )
    BUDGET.total = BYTES_PER_PIXEL * max(int(megapixels * 1e6), 1)


def declared(content: bytes) -> tuple[tuple[int, int], int] | None:
    """Reads the size of an image whose decoder allocates memory on opening.

    The WebP decoder allocates the canvas, the PNG decoder expands compressed
    texts, and the ICO decoder decodes the image.

    Returns:
      (width, height) and the estimated peak in bytes; None for other formats
      and for headers that Pillow rejects.
    """
    try:
        if content.startswith(parts.PNG_START):
            return _declared_png(content)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            size = _webp_size(content)
        elif content.startswith(_ICON_START):
            size = max(_icon_sizes(content), key=_area)
        else:
            return None
    except (IndexError, ValueError, struct.error):
        return None
    return size, _area(size) * BYTES_PER_PIXEL + len(content)


def estimate(
    image: Image.Image, content: bytes, whole: tuple[int, int]
) -> tuple[int, int]:
    """Estimates the memory for decoding an opened image.

    Args:
      image: opened but not loaded; a JPEG with `draft` applied.
      content: the file's bytes.
      whole: (width, height) before `draft`.

    Returns:
      The number of pixels in memory and the peak in bytes.
    """
    inner = _inner_pixels(image, content)
    if inner is None:
        return _area(image.size), _UNKNOWN
    pixels = max(_area(image.size), inner)
    if image.format in ("JPEG", "MPO"):
        held = 0
        if _has_whole_coefficients(image, content):
            held = _COEFFICIENT * len(image.layer) * _area(whole)
            pixels = _area(whole)
        drafted = _area(image.size) * _per_pixel(image)
        return pixels, drafted + held + len(content)
    return pixels, pixels * _per_pixel(image) + len(content)


def is_rotated(image: Image.Image) -> bool:
    """Returns whether the EXIF orientation differs from the default."""
    return _orientation(image) != 1


def is_turned(image: Image.Image) -> bool:
    """Returns whether width and height are swapped in the upright image."""
    return _orientation(image) in (5, 6, 7, 8)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, struct.error):
        return 1  # Unreadable EXIF data is ignored.


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _per_pixel(image: Image.Image) -> int:
    stored = _STORED.get(image.mode, _OTHER)
    held = _HELD.get(image.format, _HELD_BY_OTHERS)
    rotated = stored if is_rotated(image) else 0
    plain = image.mode in ("RGB", "L") and "transparency" not in image.info
    return held + stored + max(rotated, 1 if plain else _OTHER)


def _declared_png(content: bytes) -> tuple[tuple[int, int], int]:
    width, height, depth, color = struct.unpack_from(">IIBB", content, 16)
    kinds = [kind for kind, _ in parts.png_chunks(content)]
    stored = _OTHER if color in (2, 4, 6) else 2 if depth == 16 else 1
    rotated = stored if any(kind in _MAY_ROTATE for kind in kinds) else 0
    plain = color in (0, 2) and b"tRNS" not in kinds
    if color == 0 and depth in (1, 16):  # mode is neither L nor RGB
        plain = False
    per_pixel = stored + max(rotated, 1 if plain else _OTHER)
    texts = sum(kind in _COMPRESSED for kind in kinds)
    text = min(texts * _TEXT, _MAX_TEXT)
    peak = width * height * per_pixel + _LINE * (width + height)
    return (width, height), peak + text + len(content)


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(content[24:27], "little") + 1
        return width, int.from_bytes(content[27:30], "little") + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


def _icon_sizes(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields the size of each PNG or headerless BMP in an ICO file."""
    for entry in range(struct.unpack_from("<H", content, 4)[0]):
        place = struct.unpack_from("<I", content, 6 + 16 * entry + 12)[0]
        if content.startswith(parts.PNG_START, place):
            yield struct.unpack_from(">II", content, place + 16)
        else:
            width, height = struct.unpack_from("<ii", content, place + 4)
            yield abs(width), abs(height)


def _has_whole_coefficients(image: Image.Image, content: bytes) -> bool:
    """Returns whether decoding a JPEG keeps all coefficients in memory.

    They are kept for progressive JPEGs, and if the first scan lacks components.
    """
    if "progressive" in image.info or "progression" in image.info:
        return True
    for marker, start in parts.jpeg_segments(content):
        if marker == parts.START_OF_SCAN:
            return content[start + 2] < len(image.layer)
    return False


def _inner_pixels(image: Image.Image, content: bytes) -> int | None:
    """Returns the pixel count of a container's largest image, if known."""
    if image.format in _HELD:
        return 0
    if image.format == "AVIF":
        return avif.coded_pixels(content)
    if image.format == "TIFF":
        tags = image.tag_v2
        return tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0)
    sizes = [jpeg2000.pixels(content)]
    place = content.find(parts.PNG_START)
    while place >= 0:
        with contextlib.suppress(struct.error):
            size = struct.unpack_from(">II", content, place + 16)
            sizes.append(_area(size))
        place = content.find(parts.PNG_START, place + 1)
    return max(sizes)
