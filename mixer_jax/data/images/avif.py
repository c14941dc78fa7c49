"""Reads the sizes of an AVIF file's coded frames.

libavif scales decoded frames to the size that the container declares: a file of
one kilobyte that declares 64 x 48 pixels can contain a 16384 x 16384 frame.

References:
  ISO/IEC 14496-12, 8.11 (boxes); AV1 Bitstream Specification, 5.3 and 5.5.
"""

import itertools
import struct
from collections.abc import Iterator

_SEQUENCE_HEADER = 1  # OBU type
_MAX_UNITS = 10_000  # OBUs per file; a frame has a few
_UNIT_BYTES = 1024  # bytes read per OBU; a sequence header is shorter
_FULL = 4  # size of a box's version and flags, in bytes
# Boxes that contain boxes, with the number of bytes before the inner boxes.
_CONTAINERS = dict.fromkeys((b"moov", b"trak", b"iprp", b"ipco"), 0)
_CONTAINERS[b"meta"] = _FULL
_TABLES, _ENTRY = (b"ipma", b"iinf", b"iref"), 4  # bytes per entry


def coded_pixels(content: bytes) -> int | None:
    """Returns the pixel count of the largest frame, or None if unknown."""
    try:
        if any(kind == b"moov" for kind, _, _ in _boxes(content)):
            return None  # Image sequences store their frames elsewhere.
        units = itertools.chain.from_iterable(map(_units, _items(content)))
        pixels = []
        for count, (kind, data) in enumerate(units):
            if count == _MAX_UNITS:
                return None
            if kind == _SEQUENCE_HEADER:
                width, height = _sequence_size(data)
                pixels.append(width * height)
    except (IndexError, KeyError, ValueError, struct.error):
        return None
    return max(pixels, default=None)


def entries(content: bytes) -> Iterator[None]:
    """Yields once per table entry allocated when an AVIF file is opened.

    Extents are counted as declared, because they may take no bytes in the file.
    """
    try:
        yield from _entries(content)
    except (IndexError, ValueError, struct.error):
        return  # Decoders stop here, too.


def _entries(content: bytes) -> Iterator[None]:
    spans = [(0, len(content))]
    while spans:
        for kind, start, stop in _boxes(content, *spans.pop()):
            if kind in _CONTAINERS:
                yield
                spans.append((start + _CONTAINERS[kind], stop))
            elif kind == b"iloc":
                yield from _extents(content[start:stop])
            elif kind in _TABLES:
                yield from itertools.repeat(None, (stop - start) // _ENTRY)
            else:
                yield


def _extents(iloc: bytes) -> Iterator[None]:
    """Yields once per extent that `_located` would read."""
    version, place = iloc[0], _FULL + 2
    widths = iloc[4] >> 4, iloc[4] & 15, iloc[5] & 15 if version else 0
    head = (6 if version == 2 else 4) + (2 if version else 0) + (iloc[5] >> 4)
    place += 4 if version == 2 else 2
    while place + head + 2 <= len(iloc):
        count = struct.unpack_from(">H", iloc, place + head)[0]
        yield from itertools.repeat(None, count)
        place += head + 2 + count * sum(widths)


def _boxes(
    content: bytes, place: int = 0, end: int | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type, start and end of each box from `place` to `end`."""
    end = len(content) if end is None else end
    while place + 8 <= end:
        length, kind = struct.unpack_from(">I4s", content, place)
        start = place + 8
        if length == 1:
            length = struct.unpack_from(">Q", content, start)[0]
            start += 8
        place = place + length if length else end
        if place < start:
            raise ValueError("a box is smaller than its header")
        yield kind, start, min(place, end)


def _items(content: bytes) -> Iterator[bytes]:
    """Yields the data of each item that contains a frame."""
    for kind, start, end in _boxes(content):
        if kind != b"meta":
            continue
        boxes = _boxes(content, start + _FULL, end)
        inner = {k: content[s:e] for k, s, e in boxes}
        frames = set(_frame_ids(inner[b"iinf"]))
        idat = inner.get(b"idat", b"")
        for item, data in _located(content, idat, inner[b"iloc"]):
            if item in frames:
                yield data


def _frame_ids(iinf: bytes) -> Iterator[int]:
    for _, start, _ in _boxes(iinf, _FULL + (4 if iinf[0] else 2)):
        form = ">I2x4s" if iinf[start] == 3 else ">H2x4s"
        item, kind = struct.unpack_from(form, iinf, start + _FULL)
        if kind == b"av01":
            yield item


def _located(
    content: bytes, idat: bytes, iloc: bytes
) -> Iterator[tuple[int, bytes]]:
    """Yields the ID and data of each item."""
    version, place = iloc[0], _FULL + 2
    sizes = iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4
    index_size = iloc[5] & 15 if version else 0

    def number(size: int) -> int:
        nonlocal place
        place += size
        if place > len(iloc):
            raise IndexError("the item locations are truncated")
        return int.from_bytes(iloc[place - size : place], "big")

    total = 0
    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        source = idat if version and number(2) & 15 else content
        number(2)  # data reference
        base, pieces = number(sizes[2]), []
        for _ in range(number(2)):
            number(index_size)
            start = base + number(sizes[0])
            length = number(sizes[1])
            pieces.append(source[start : start + length if length else None])
            total += len(pieces[-1])
            if total > len(content):
                raise ValueError("the items are larger than the file")
        yield item, b"".join(pieces)


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the first bytes of each OBU."""
    place = 0
    while place < len(data):
        header = data[place]
        place += 2 if header & 4 else 1
        size = len(data) - place
        if header & 2:
            size, place = _leb128(data, place)
        yield header >> 3 & 15, data[place : place + min(size, _UNIT_BYTES)]
        place += size


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for byte in range(8):
        value |= (data[place + byte] & 127) << 7 * byte
        if not data[place + byte] & 128:
            return value, place + byte + 1
    raise ValueError("a LEB128 number is too long")


def _sequence_size(payload: bytes) -> tuple[int, int]:
    """Returns the largest frame size that a sequence header allows."""
    bits = f"{int.from_bytes(payload, 'big'):0{8 * len(payload)}b}"
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    read(4)  # profile, still picture
    if read(1):  # reduced header of a still picture
        read(5)
    else:
        _skip_operating_points(read)
    width_bits, height_bits = read(4) + 1, read(4) + 1
    return read(width_bits) + 1, read(height_bits) + 1


def _skip_operating_points(read) -> None:
    delay_bits = 0
    if read(1):  # timing
        read(64)
        if read(1):  # equal picture intervals: an Exp-Golomb number
            zeros = 0
            while not read(1):
                zeros += 1
            if zeros:
                read(zeros)
        if read(1):  # decoder model
            delay_bits = read(5) + 1
            read(42)
    display_delay = read(1)
    for _ in range(read(5) + 1):
        read(12)
        if read(5) > 7:
            read(1)
        if delay_bits and read(1):
            read(2 * delay_bits + 1)
        if display_delay and read(1):
            read(4)
