"""Walks over the parts of image files, and limits how many there are.

Decoders spend time and memory on every part, even on an empty one: a JPEG of
300 kilobytes can ask for a thousand passes over 50 megapixels.
"""

import re
import struct
from collections.abc import Iterator

from mixer_jax.data import avif_size

# Many times what cameras and editors write.
_MAX_SEGMENTS, _MAX_SCANS = 1000, 50  # of a JPEG
_MAX_CHUNKS = 100_000  # of a PNG
_MAX_BLOCKS = 100_000  # of a GIF, before its first frame
_MAX_ENTRIES = 100_000  # of an AVIF's tables
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# Markers that Pillow takes to stand alone, without a length.
_ALONE = {0x01, 0xC8, 0xCC, 0xD8, END_OF_IMAGE, *range(0xF0, 0xFE)}
_PNG_START, _GIF_START = b"\x89PNG\r\n\x1a\n", b"GIF8"


class TooManyPartsError(ValueError):
    """A file has more parts than any picture needs."""


def check(content: bytes) -> None:
    """Raises a `TooManyPartsError` if a file has too many parts."""
    if content.startswith(b"\xff\xd8\xff"):
        _check_jpeg(content)
    elif content.startswith(_PNG_START):
        _limit(png_chunks(content), _MAX_CHUNKS, "chunks")
    elif content.startswith(_GIF_START):
        _limit(_gif_blocks(content), _MAX_BLOCKS, "blocks before its picture")
    elif content.startswith(b"ftyp", 4):
        _limit(avif_size.entries(content), _MAX_ENTRIES, "table entries")


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields marker and place of each segment up to the first scan."""
    for marker, start in _jpeg_markers(content):
        yield marker, start
        if marker == START_OF_SCAN:
            return


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields the kind of each chunk, and whether it is whole."""
    place = 8
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        place += 12 + length
        yield kind, place <= len(content)


def after_gif_colors(place: int, flags: int) -> int:
    """Returns where a GIF's color table at `place` ends."""
    return place + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)


def _check_jpeg(content: bytes) -> None:
    scans = 0
    for segments, (marker, _) in enumerate(_jpeg_markers(content), 1):
        if marker == END_OF_IMAGE and scans:
            return
        scans += marker == START_OF_SCAN
        for count, most, name in (
            (scans, _MAX_SCANS, "scans"),
            (segments, _MAX_SEGMENTS, "segments"),
        ):
            if count > most:
                raise TooManyPartsError(f"it has more than {most:,} {name}")


def _jpeg_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields each marker and the place after it; junk is passed over."""
    place, scanned = 2, False
    while found := _MARKER.search(content, place):
        marker, place = found[0][1], found.end()
        if marker in _ALONE and not (scanned and marker == 0xCC):
            yield marker, place
            continue
        if place + 2 > len(content):
            return
        yield marker, place
        scanned |= marker == START_OF_SCAN
        place += max(struct.unpack_from(">H", content, place)[0], 2)


def _gif_blocks(content: bytes) -> Iterator[int]:
    """Yields the place of each extension, and of each part of one."""
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


def _limit(found: Iterator, most: int, name: str) -> None:
    for count, _ in enumerate(found, 1):
        if count > most:
            raise TooManyPartsError(f"it has more than {most:,} {name}")
