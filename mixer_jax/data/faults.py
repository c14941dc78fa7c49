"""What is wrong with an image file that cannot be used: one of ten kinds.

A kind is found from the bytes, not from what a decoder says: the same damage
raises a dozen different errors, some of them only in one version.
"""

import struct
from collections.abc import Iterator

from PIL import Image, features

from mixer_jax.errors import UserError

MISSING = "missing"  # there is no file of that name
FOLDER = "folder"  # it is a folder
UNREADABLE = "unreadable"  # the system does not let it be read
EMPTY = "empty"  # it has no bytes
NOT_AN_IMAGE = "not an image"  # no image format begins like this
UNSUPPORTED = "unsupported format"  # an image, but of a kind not decoded here
NO_AREA = "no area"  # its width or height is 0
TOO_LARGE = "too large"  # it has more pixels than data.max_pixels
TRUNCATED = "truncated"  # its end is missing
CORRUPT = "corrupt"  # it is whole, but cannot be decoded
KINDS = (
    MISSING,
    FOLDER,
    UNREADABLE,
    EMPTY,
    NOT_AN_IMAGE,
    UNSUPPORTED,
    NO_AREA,
    TOO_LARGE,
    TRUNCATED,
    CORRUPT,
)

# (format, place, bytes there); the names are Pillow's where it has the format.
_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF8"),
    ("WEBP", 8, b"WEBP"),
    ("BMP", 0, b"BM"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("AVIF", 4, b"ftypavi"),
    ("HEIF", 4, b"ftyphe"),
    ("HEIF", 4, b"ftypmif1"),
    ("JPEG2000", 4, b"jP  \r\n\x87\n"),
    ("JPEG2000", 0, b"\xff\x4f\xff\x51"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL \r\n\x87\n"),
    ("EXR", 0, b"v/1\x01"),
    ("PSD", 0, b"8BPS"),
    ("PPM", 0, b"P5\n"),
    ("PPM", 0, b"P6\n"),
    ("ICO", 0, b"\0\0\1\0"),
)
_BOXED = ("AVIF", "JPEG2000")  # ISO files, made of boxes
# What of Pillow is there only where it was built with it.
_BUILT_WITH = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_REFUSALS = ("unsupported", "not supported", "not available", "no loader")
# Tags with the places and sizes of a TIFF's strips and tiles.
_TIFF_PARTS = (273, 279, 324, 325)
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
# Markers of a JPEG that begin a frame, whose header has its size.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class UnreadableImageError(UserError):
    """An image file that cannot be used.

    Attributes:
      kind: why, one of `KINDS`.
    """

    def __init__(self, message: str, kind: str = CORRUPT):
        # The message alone: worker processes send errors as their arguments.
        super().__init__(message)
        self.kind = kind


def of_system(error: OSError | ValueError) -> str:
    """Returns the kind of a file that could not be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MISSING
    return FOLDER if isinstance(error, IsADirectoryError) else UNREADABLE


def of_content(content: bytes, error: Exception) -> str:
    """Returns the kind of bytes that could not be decoded.

    Args:
      content: the whole file.
      error: what the decoder raised.
    """
    if not content:
        return EMPTY
    if isinstance(error, MemoryError):
        return TOO_LARGE
    name = _format(content)
    if name is None:
        return NOT_AN_IMAGE
    said = str(error).lower()
    if not _decodes(name) or any(words in said for words in _REFUSALS):
        return UNSUPPORTED
    try:
        if 0 in _size(content, name):
            return NO_AREA
        cut = _is_cut(content, name, said)
    except (IndexError, struct.error):  # Not even the header is there.
        cut = True
    return TRUNCATED if cut else CORRUPT


def _format(content: bytes) -> str | None:
    for name, place, signature in _SIGNATURES:
        if content.startswith(signature, place):
            return name
    if b"<svg" in content[:1024].lower():
        return "SVG"
    return None


def _decodes(name: str) -> bool:
    Image.init()
    feature = _BUILT_WITH.get(name)
    return name in Image.OPEN and (not feature or features.check(feature))


def _size(content: bytes, name: str) -> tuple[int, ...]:
    """Returns width and height, () where the header is not looked at."""
    if name == "PNG":
        return struct.unpack_from(">II", content, 16)
    if name == "GIF":
        return struct.unpack_from("<HH", content, 6)
    if name == "BMP":
        return struct.unpack_from("<ii", content, 18)
    if name == "JPEG":
        for marker, start in _jpeg_segments(content):
            if marker in _FRAMES:
                return struct.unpack_from(">HH", content, start + 3)
    return ()


def _is_cut(content: bytes, name: str, said: str) -> bool:
    """Returns whether the end of a file is missing.

    Args:
      content: the file.
      name: of its format.
      said: the decoder's error, for formats that do not say where they end.
    """
    if name == "JPEG":
        for marker, start in _jpeg_segments(content):
            if marker == _START_OF_SCAN:
                # A thumbnail before the scan has an end of its own.
                return content.find(_END_OF_IMAGE, start) < 0
        return True
    if name == "PNG":
        kinds = [kind for kind, end in _png_chunks(content) if end]
        return b"IEND" not in kinds
    if name == "GIF":
        return _gif_is_cut(content)
    if name == "WEBP":
        return struct.unpack_from("<I", content, 4)[0] + 8 > len(content)
    if name == "BMP":
        return struct.unpack_from("<I", content, 2)[0] > len(content)
    if name == "TIFF":
        return _tiff_end(content) > len(content)
    if name in _BOXED and content[:2] != b"\xff\x4f":
        return _box_ends_outside(content)
    return any(words in said for words in ("truncated", "eof", "end of file"))


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields marker and place of each segment up to the first scan."""
    place = 2
    while place + 4 <= len(content):
        if content[place] != 0xFF:
            return
        marker = content[place + 1]
        if marker == 0xFF:  # Fill bytes may stand before a marker.
            place += 1
            continue
        yield marker, place + 2
        if marker == _START_OF_SCAN:
            return
        place += 2 + struct.unpack_from(">H", content, place + 2)[0]


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields the kind of each chunk, and whether it is whole."""
    place = 8
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        place += 12 + length
        yield kind, place <= len(content)


def _gif_is_cut(content: bytes) -> bool:
    """Walks a GIF's blocks to its trailer; raises IndexError before it."""

    def after_colours(place: int, flags: int) -> int:
        return place + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)

    place = after_colours(13, content[10])
    while (block := content[place]) != 0x3B:
        if block == 0x21:  # an extension: its label, and parts
            place += 2
        elif block == 0x2C:  # an image: its colours, a byte, and parts
            place = after_colours(place + 10, content[place + 9]) + 1
        else:
            return False
        while length := content[place]:
            place += 1 + length
        place += 1
    return False


def _tiff_end(content: bytes) -> int:
    """Returns where a TIFF's first table, and what it points at, ends."""
    order = "<" if content.startswith(b"II") else ">"
    table = struct.unpack_from(f"{order}I", content, 4)[0]
    count = struct.unpack_from(f"{order}H", content, table)[0]
    ends, parts = [table + 2 + 12 * count + 4], []
    for entry in range(table + 2, table + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", content, entry)
        size, place = _TIFF_SIZES.get(kind, 1) * length, entry + 8
        if size > 4:  # The values stand elsewhere.
            place = struct.unpack_from(f"{order}I", content, place)[0]
            ends.append(place + size)
        if tag in _TIFF_PARTS:
            letter = "H" if kind == 3 else "I"
            numbers = f"{order}{length}{letter}"
            parts.append(struct.unpack_from(numbers, content, place))
    return max([*ends, *map(sum, zip(*parts, strict=True))])


def _box_ends_outside(content: bytes) -> bool:
    place = 0
    while place + 8 <= len(content):
        length = struct.unpack_from(">I", content, place)[0]
        if length == 1:
            length = struct.unpack_from(">Q", content, place + 8)[0]
        if length == 0:  # It goes to the end, wherever that is.
            return False
        place += max(length, 8)
    return place != len(content)
