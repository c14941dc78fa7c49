"""Classifies unusable image files into ten kinds of faults.

The kind is determined from the bytes rather than the decoder's error: the same
damage can raise a dozen different errors, depending on Pillow's version.
"""

import base64
import binascii
import re
import struct
from collections.abc import Sequence

from PIL import Image, features

from mixer_jax.data.images import parts
from mixer_jax.runtime.errors import UserError

MISSING = "missing"  # the file does not exist
FOLDER = "folder"  # the path is a folder
UNREADABLE = "unreadable"  # the system cannot read the file
EMPTY = "empty"  # the file has no bytes
NOT_AN_IMAGE = "not an image"  # the first bytes match no image format
UNSUPPORTED = "unsupported format"  # images of this format are not decoded
NO_AREA = "no area"  # the width or height is 0
TOO_LARGE = "too large"  # the image exceeds the limit on pixels or parts
TRUNCATED = "truncated"  # the end of the file is missing
CORRUPT = "corrupt"  # the file is complete, but cannot be decoded
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

# (format, offset, bytes), with Pillow's names for the formats it supports.
_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF8"),
    ("WEBP", 8, b"WEBP"),
    ("BMP", 0, b"BM"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("TIFF", 0, b"II+\0"),  # BigTIFF
    ("TIFF", 0, b"MM\0+"),
    ("AVIF", 4, b"ftypavi"),
    ("HEIF", 4, b"ftyphe"),
    ("HEIF", 4, b"ftypmif1"),
    ("HEIF", 4, b"ftypmsf1"),
    ("JPEG2000", 4, b"jP  \r\n\x87\n"),
    ("JPEG2000", 0, b"\xff\x4f\xff\x51"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL \r\n\x87\n"),
    ("EXR", 0, b"v/1\x01"),
    ("PSD", 0, b"8BPS"),
    ("PPM", 0, b"P5\n"),
    ("PPM", 0, b"P6\n"),
    ("ICO", 0, b"\0\0\1\0"),
    ("ICNS", 0, b"icns\0"),
    ("DDS", 0, b"DDS \x7c\0\0\0"),
    ("QOI", 0, b"qoif\0"),
    ("SGI", 0, b"\x01\xda\0"),
    ("SGI", 0, b"\x01\xda\1"),
)
# Display names of formats whose Pillow names are unusual.
_TITLES = {"HEIF": "HEIC (HEIF)", "WEBP": "WebP", "JPEG2000": "JPEG 2000"}
# (phrase, offset, bytes) of file formats that are not images.
_FOREIGN = (
    ("a PDF document", 0, b"%PDF"),
    ("a PostScript file", 0, b"%!PS"),
    ("a Git LFS pointer instead of the file", 0, b"version https://git-lfs"),
    ("gzip-compressed data", 0, b"\x1f\x8b"),
    ("a ZIP archive or an Office document", 0, b"PK\x03\x04"),
    ("a 7-Zip archive", 0, b"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", 0, b"Rar!\x1a\x07"),
    ("bzip2-compressed data", 0, b"BZh"),
    ("xz-compressed data", 0, b"\xfd7zXZ\0"),
    ("Zstandard-compressed data", 0, b"\x28\xb5\x2f\xfd"),
    ("a tar archive", 257, b"ustar"),
    ("a Matroska or WebM video", 0, b"\x1aE\xdf\xa3"),
    ("an AVI video", 8, b"AVI "),
    ("an MPEG video", 0, b"\0\0\1\xba"),
    ("a WAV recording", 8, b"WAVE"),
    ("an MP3 recording", 0, b"ID3"),
    ("an Ogg recording or video", 0, b"OggS"),
    ("a NumPy array", 0, b"\x93NUMPY"),
    ("a Parquet file", 0, b"PAR1"),
    ("a data: URL instead of the file's bytes", 0, b"data:"),
    ("part of a form instead of the file's bytes", 0, b"Content-Disp"),
    ("a CR3 raw picture", 4, b"ftypcrx "),
    ("an MP4 or QuickTime video", 4, b"ftyp"),
    ("a QuickTime video", 4, b"moov"),
)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_=\s-]{32,}")
_HTML = re.compile(rb"<(!doctype\s+html|html|head|body|script)\b")
# The boundary of a multipart form, and a header of its first part.
_FORM = re.compile(rb"--[^\r\n]{1,200}\r?\ncontent-[a-z-]+:", re.IGNORECASE)
_HEAD_BYTES = 1024  # bytes inspected to describe a text file
_DIB_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # header sizes in BMP files
_BOXED = ("AVIF", "JPEG2000")  # ISO formats, which consist of boxes
# Formats that Pillow builds may lack, with their feature names.
_BUILT_WITH = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_REFUSALS = ("unsupported", "not supported", "not available", "no loader")
# Tags with the offsets and sizes of a TIFF's strips and tiles.
_TIFF_PARTS = (273, 279, 324, 325)
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_END_OF_IMAGE = bytes((0xFF, parts.END_OF_IMAGE))
# JPEG markers that start a frame, whose header contains the image size.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class UnreadableImageError(UserError):
    """Raised if an image file cannot be used.

    Attributes:
      kind: one of `KINDS`.
      reason: the message without the file's name and the final period.
    """

    def __init__(self, message: str, kind: str = CORRUPT, reason: str = ""):
        # Pass only the message: unpickling calls the class with `args`.
        super().__init__(message)
        self.kind = kind
        self.reason = reason or message


def unreadable(name: str, kind: str, reason: str) -> UnreadableImageError:
    """Returns an error about an image; `name` may be its path."""
    return UnreadableImageError(f"{name}: {reason}.", kind, reason)


def of_system(error: OSError | ValueError) -> str:
    """Returns the kind of fault of a file that could not be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MISSING
    return FOLDER if isinstance(error, IsADirectoryError) else UNREADABLE


def of_content(
    content: bytes, error: Exception, formats: Sequence[str] = ()
) -> str:
    """Returns the kind of fault of bytes that could not be decoded.

    Args:
      content: the whole file.
      error: the decoder's exception.
      formats: the accepted formats; all if empty.
    """
    if not content:
        return EMPTY
    if isinstance(error, MemoryError):
        return TOO_LARGE
    name = identify(content)
    if name is None:
        return NOT_AN_IMAGE
    message = str(error).lower()
    if formats and name not in formats:
        return UNSUPPORTED
    if not _decodes(name) or any(words in message for words in _REFUSALS):
        return UNSUPPORTED
    try:
        if 0 in _size(content, name):
            return NO_AREA
        cut = _is_cut(content, name, message)
    except (IndexError, struct.error):  # The header is incomplete.
        cut = True
    return TRUNCATED if cut else CORRUPT


def identify(content: bytes) -> str | None:
    """Returns the name of the image format, or None for other data."""
    for name, place, signature in _SIGNATURES:
        if content.startswith(signature, place) and (
            name != "BMP" or _is_bmp(content)
        ):
            return name
    head = content[:_HEAD_BYTES].lower()
    return "SVG" if b"<svg" in head and not _HTML.search(head) else None


def describe(content: bytes) -> str:
    """Returns a phrase that describes file contents: "a PDF document"."""
    if not content:
        return "an empty file"
    if name := identify(content):
        name = _TITLES.get(name, name)
        article = "an" if name[0] in "AEIS" else "a"
        return f"{article} {name} picture"
    for phrase, place, signature in _FOREIGN:
        if content.startswith(signature, place):
            return phrase
    return _describe_text(content) or "data of an unknown format"


def _is_bmp(content: bytes) -> bool:
    """Returns whether bytes that start with BM are a BMP and not text."""
    if len(content) < 18:
        return True
    return struct.unpack_from("<I", content, 14)[0] in _DIB_HEADERS


def _describe_text(content: bytes) -> str | None:
    head = content[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").strip()
    if _FORM.match(head):  # The form may contain a binary file.
        return "a form (multipart/form-data)"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "plain text"
    if _HTML.search(head.lower()):
        return "an HTML page"
    text = head.decode("utf-8", "ignore")  # The last character may be cut off.
    if len(head) - len(text.encode()) > 3 or not all(
        letter.isprintable() or letter.isspace() for letter in text
    ):
        return None
    if head.startswith(b"<"):
        return "XML"
    if head.startswith((b"{", b"[")):
        return "JSON"
    if _BASE64.fullmatch(head):
        return _describe_base64(head)
    return "plain text"


def _describe_base64(text: bytes) -> str:
    text = b"".join(text.split())
    try:
        inner = base64.b64decode(text[: len(text) // 4 * 4], b"-_")
    except binascii.Error:
        return "plain text"
    name = identify(inner)
    if name is None:
        return "text, perhaps base64"
    return f"base64 text instead of the {_TITLES.get(name, name)} file's bytes"


def _decodes(name: str) -> bool:
    Image.init()
    feature = _BUILT_WITH.get(name)
    return name in Image.OPEN and (not feature or features.check(feature))


def _size(content: bytes, name: str) -> tuple[int, ...]:
    """Returns the two side lengths, or () for formats that are not parsed."""
    if name == "PNG":
        return struct.unpack_from(">II", content, 16)
    if name == "GIF":
        return struct.unpack_from("<HH", content, 6)
    if name == "BMP":
        return struct.unpack_from("<ii", content, 18)
    if name == "JPEG":
        for marker, start in parts.jpeg_segments(content):
            if marker in _FRAMES:
                return struct.unpack_from(">HH", content, start + 3)
    return ()


def _is_cut(content: bytes, name: str, message: str) -> bool:
    """Returns whether the end of a file is missing.

    Args:
      content: the file.
      name: the name of its format.
      message: the decoder's error, for formats whose end is not marked.
    """
    if name == "JPEG":
        for marker, start in parts.jpeg_segments(content):
            if marker == parts.START_OF_SCAN:
                # A thumbnail before the scan has its own end marker.
                return content.find(_END_OF_IMAGE, start) < 0
        return True
    if name == "PNG":
        kinds = [kind for kind, end in parts.png_chunks(content) if end]
        return b"IEND" not in kinds
    if name == "GIF":
        return _gif_is_cut(content)
    if name == "WEBP":
        return struct.unpack_from("<I", content, 4)[0] + 8 > len(content)
    if name == "BMP":
        return struct.unpack_from("<I", content, 2)[0] > len(content)
    if name == "TIFF" and b"*" in content[2:4]:
        return _tiff_end(content) > len(content)
    if name in _BOXED and content[:2] != b"\xff\x4f":
        return _box_ends_outside(content)
    return any(
        words in message for words in ("truncated", "eof", "end of file")
    )


def _gif_is_cut(content: bytes) -> bool:
    """Returns False; raises IndexError if the file ends before the trailer."""
    place = parts.after_gif_colors(13, content[10])
    while (block := content[place]) != 0x3B:
        if block == 0x21:  # extension: label, sub-blocks
            place += 2
        elif block == 0x2C:  # image: colors, a byte, sub-blocks
            place = parts.after_gif_colors(place + 10, content[place + 9]) + 1
        else:
            return False
        while length := content[place]:
            place += 1 + length
        place += 1
    return False


def _tiff_end(content: bytes) -> int:
    """Returns the offset where a TIFF's first directory and its data end."""
    order = "<" if content.startswith(b"II") else ">"
    table = struct.unpack_from(f"{order}I", content, 4)[0]
    count = struct.unpack_from(f"{order}H", content, table)[0]
    ends, pieces = [table + 2 + 12 * count + 4], []
    for entry in range(table + 2, table + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", content, entry)
        size, place = _TIFF_SIZES.get(kind, 1) * length, entry + 8
        if size > 4:  # The entry contains the offset of the values.
            place = struct.unpack_from(f"{order}I", content, place)[0]
            ends.append(place + size)
        if tag in _TIFF_PARTS:
            letter = "H" if kind == 3 else "I"
            numbers = f"{order}{length}{letter}"
            pieces.append(struct.unpack_from(numbers, content, place))
    # The lists of a corrupt file may have unequal lengths.
    return max([*ends, *map(sum, zip(*pieces, strict=False))])


def _box_ends_outside(content: bytes) -> bool:
    place = 0
    while place + 8 <= len(content):
        length = struct.unpack_from(">I", content, place)[0]
        if length == 1:
            length = struct.unpack_from(">Q", content, place + 8)[0]
        if length == 0:  # The box extends to the end of the file.
            return False
        place += max(length, 8)
    return place != len(content)
