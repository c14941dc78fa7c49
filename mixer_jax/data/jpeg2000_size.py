"""Estimates what the structures of a JPEG 2000 codestream take, as pixels.

OpenJPEG allocates kilobytes for each tile, and half a kilobyte for each block,
before it reads their data: a file of 160 bytes can declare 65,535 tiles, or
blocks of one pixel.

References:
  ISO/IEC 15444-1, annex A (markers) and B (tiles, precincts, code-blocks).
"""

import re
import struct
from collections.abc import Iterator

START = b"\xff\x4f\xff\x51"
# Pixels that take as much memory as a tile, and what is in it once for each
# component, do.
_TILE, _TILE_COMPONENT, _BLOCK = 512, 64, 40
_BYTES = 16  # that a pixel stands for, or fewer
_STYLE = re.compile(rb"\xff[\x52\x53]\0")  # COD and COC, also those of a tile
_COMPONENT_STYLE = 0x53
_START_OF_TILE = 0x90
_COPIED = (0x74, 0x75, 0x77)  # segments that every tile gets a copy of
_WHOLE = 0xFF  # a precinct's exponents if none are given


def pixels(content: bytes, start: int) -> int:
    """Returns the pixels of a codestream, those of its structures included.

    Args:
      content: the file.
      start: where in it the codestream starts.

    Raises:
      struct.error: if its header is not there.
      ValueError: if its header is wrong.
    """
    width, height, *_, tile_width, tile_height = struct.unpack_from(
        ">IIIIII", content, start + 8
    )
    components = struct.unpack_from(">H", content, start + 40)[0]
    if not tile_width or not tile_height:
        raise ValueError("a tile has no area")
    tiles = _ceil(width, tile_width) * _ceil(height, tile_height)
    tile = _TILE + _TILE_COMPONENT * components
    tile += _copied_bytes(content, start) // _BYTES
    blocks = max(
        (
            _blocks(width, height, levels, block, precincts)
            for levels, block, precincts in _styles(content, components)
        ),
        default=0,
    )
    return width * height + tiles * tile + blocks * _BLOCK * components


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _copied_bytes(content: bytes, start: int) -> int:
    """Returns the bytes of the main header that each tile gets a copy of."""
    place, copied = start + 2, 0
    while place + 4 <= len(content) and content[place + 1] != _START_OF_TILE:
        length = struct.unpack_from(">H", content, place + 2)[0]
        copied += length if content[place + 1] in _COPIED else 0
        place += 2 + max(length, 2)
    return copied


def _styles(
    content: bytes, components: int
) -> Iterator[tuple[int, tuple[int, int], bytes]]:
    """Yields the levels, a block's exponents and the precincts of each style.

    A style may stand in any tile's header. What looks like one is taken for
    one, wherever it is: within data, that is unlikely.
    """
    for found in _STYLE.finditer(content):
        place = found.start() + 4
        fields = place + 5
        if found[0][1] == _COMPONENT_STYLE:
            place += 1 if components < 257 else 2
            fields = place + 1
        levels, *block, _, kind = content[fields : fields + 5].ljust(5, b"\xff")
        precincts = b""
        if levels <= 32 and content[place] & 1:
            precincts = content[fields + 5 : fields + 6 + levels]
        end = found.start() + 2 + content[found.start() + 3]
        if end == fields + 5 + len(precincts) and max(block) <= 8 and kind <= 1:
            yield levels, (block[0] + 2, block[1] + 2), precincts


def _blocks(
    width: int,
    height: int,
    levels: int,
    block: tuple[int, int],
    precincts: bytes,
) -> int:
    """Returns how many blocks a component has; a precinct has at least one."""
    count = 0
    for level, precinct in enumerate(
        precincts or bytes([_WHOLE]) * (levels + 1)
    ):
        halved = 1 if level else 0  # The bands of all but the first are half.
        wide = min(block[0], max((precinct & 15) - halved, 0))
        high = min(block[1], max((precinct >> 4) - halved, 0))
        scale = levels - level
        across = _ceil(width, 1 << (scale + wide))
        count += across * _ceil(height, 1 << (scale + high))
    return count
