"""Iterates over the parts of image files and limits their number.

Decoders spend time and memory on every part, even if it is empty: a JPEG of 300
kilobytes can require a thousand passes over 50 megapixels.
"""

import itertools
import re
import struct
from collections.abc import Iterator

from mixer_jax.data.images import avif

# Limits far above what cameras and editors produce.
_MAX_SEGMENTS, _MAX_SCANS = 1000, 50  # of a JPEG
_MAX_CHUNKS = 100_000  # of a PNG
_MAX_BLOCKS = 100_000  # of a GIF, before its first frame
_MAX_ENTRIES = 100_000  # of an AVIF's tables
_MAX_NUMBERS = 200_000  # in a TIFF's lists: an offset and a size per tile
# Tags of the lists read when a TIFF is opened: samples, strips, tiles.
_TIFF_LISTS = (258, 273, 277, 278, 279, 322, 323, 324, 325, 338, 339)
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# Markers that have no length field, according to Pillow.
_ALONE = {0x01, 0xC8, 0xCC, 0xD8, END_OF_IMAGE, *range(0xF0, 0xFE)}
_TIFF_STARTS = (b"II*\0", b"II\0*", b"MM*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_START, _GIF_START = b"\x89PNG\r\n\x1a\n", b"GIF8"


class TooManyPartsError(ValueError):
    """Raised if a file has more parts than any picture needs."""


def check(content: bytes) -> None:
    """Raises a `TooManyPartsError` if a file has too many parts."""
    if content.startswith(b"\xff\xd8\xff"):
        _check_jpeg(content)
    elif content.startswith(PNG_START):
        _check_length(png_chunks(content), _MAX_CHUNKS, "chunks")
    elif content.startswith(_GIF_START):
        _check_length(_gif_blocks(content), _MAX_BLOCKS, "blocks at its start")
    elif content.startswith(b"ftyp", 4):
        _check_length(avif.entries(content), _MAX_ENTRIES, "table entries")
    elif content.startswith(_TIFF_STARTS):
        _check_length(_tiff_numbers(content), _MAX_NUMBERS, "table entries")


def check_count(count: int, limit: int, name: str) -> None:
    """Raises a `TooManyPartsError` if a file has more parts than the limit."""
    if count > limit:
        raise TooManyPartsError(f"it has more than {limit:,} {name}")


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields the marker and offset of each segment up to the first scan."""
    for marker, start in _jpeg_markers(content):
        yield marker, start
        if marker == START_OF_SCAN:
            return


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields the type of each chunk, and whether it is complete."""
    place, kind = 8, b""
    while kind != b"IEND" and place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        place += 12 + length
        yield kind, place <= len(content)


def after_gif_colors(place: int, flags: int) -> int:
    """Returns the end of a GIF's color table that starts at `place`."""
    return place + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)


def _check_jpeg(content: bytes) -> None:
    scans = 0
    for segments, (marker, _) in enumerate(_jpeg_markers(content), 1):
        if marker == END_OF_IMAGE and scans:
            return
        scans += marker == START_OF_SCAN
        check_count(scans, _MAX_SCANS, "scans")
        check_count(segments, _MAX_SEGMENTS, "segments")


def _jpeg_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields each marker and the offset after it; skips other bytes."""
    place, scanned = 2, False
    while match := _MARKER.search(content, place):
        marker, place = match[0][1], match.end()
        if marker in _ALONE and not (scanned and marker == 0xCC):
            yield marker, place
            continue
        if place + 2 > len(content):
            return
        yield marker, place
        scanned |= marker == START_OF_SCAN
        place += max(struct.unpack_from(">H", content, place)[0], 2)


def _gif_blocks(content: bytes) -> Iterator[int]:
    """Yields the offsets of extensions and of their sub-blocks."""
    place = after_gif_colors(13, content[10]) if len(content) > 10 else 13
    while content[place : place + 1] not in (b"", b",", b";"):
        yield place
        if content[place] != ord("!"):
            place += 1
            continue
        place += 2
        while place < len(content) and (length := content[place]):
            yield place
            place += 1 + length
        place += 1


def _tiff_numbers(content: bytes) -> Iterator[None]:
    """Yields once per number in the lists of a TIFF's first directory."""
    order = "<" if content.startswith(b"II") else ">"
    # BigTIFF has 8-byte offsets and counts.
    forms = ("Q", "Q", "HHQ8x") if content[2] == 43 else ("L", "H", "HHL4x")
    start, head, entry = (struct.Struct(order + form) for form in forms)
    try:
        place = start.unpack_from(content, start.size)[0]
        count = head.unpack_from(content, place)[0]
        for number in range(count):
            where = place + head.size + number * entry.size
            tag, _, length = entry.unpack_from(content, where)
            if tag in _TIFF_LISTS:
                count = min(length, _MAX_NUMBERS + 1)
                yield from itertools.repeat(None, count)
    except (struct.error, OverflowError):
        return  # The decoder stops here, too.


def _check_length(parts: Iterator, limit: int, name: str) -> None:
    check_count(sum(1 for _ in itertools.islice(parts, limit + 1)), limit, name)
