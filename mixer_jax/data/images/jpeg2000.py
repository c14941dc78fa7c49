"""Estimates the memory of a JPEG 2000 codestream's structures, in pixels.

OpenJPEG allocates kilobytes per tile and half a kilobyte per code block before
it reads their data: a file of 160 bytes can declare 65,535 tiles, or blocks of
one pixel.

References:
  ISO/IEC 15444-1, annex A (markers) and B (tiles, precincts, code-blocks).
"""

import functools
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from mixer_jax.data.images import parts

START = b"\xff\x4f\xff\x51"
# Memory per tile, tile component and code block, in pixels.
_TILE, _TILE_COMPONENT, _BLOCK = 512, 64, 40
_BYTES = 16  # bytes per pixel; a lower bound on the reserved memory
_START = re.compile(re.escape(START))
_WIDE = 257  # minimum number of components for two-byte indices
# Limits far above what encoders produce.
_MAX_CODESTREAMS, _MAX_SEGMENTS = 100, 1000  # segments of a main header
_MAX_MATCHES, _MAX_STYLES = 100_000, 100
_STYLE = re.compile(rb"\xff[\x52\x53]\0")  # COD and COC, in any header
_COMPONENT_STYLE = 0x53
_START_OF_TILE = 0x90
_COPIED = (0x74, 0x75, 0x77)  # segments copied for every tile
_WHOLE = 0xFF  # default exponents of a precinct's sides


def pixels(content: bytes) -> int:
    """Returns the memory for a file's largest codestream, in pixels.

    The codestream's structures are included. Without a codestream, returns 0.

    Raises:
      TooManyPartsError: if the file has too many parts for an estimate.
    """
    styles = functools.cache(functools.partial(_styles, content))
    sizes = []
    for match in _START.finditer(content):
        try:
            sizes.append(_pixels(content, match.start(), styles))
        except parts.TooManyPartsError:
            raise
        except (struct.error, ValueError):
            continue  # Pixel data can look like a start marker.
        parts.check_count(len(sizes), _MAX_CODESTREAMS, "codestreams")
    return max(sizes, default=0)


def _pixels(
    content: bytes, start: int, styles: Callable[[bool], set["_Style"]]
) -> int:
    width, height, *_, tile_width, tile_height = struct.unpack_from(
        ">IIIIII", content, start + 8
    )
    components = struct.unpack_from(">H", content, start + 40)[0]
    length = struct.unpack_from(">H", content, start + 4)[0]
    if length != 38 + 3 * components:
        raise ValueError("no codestream starts here")
    if not tile_width or not tile_height:
        raise ValueError("a tile has no area")
    tiles = _ceil(width, tile_width) * _ceil(height, tile_height)
    tile = _TILE + _TILE_COMPONENT * components
    tile += _copied_bytes(content, start) // _BYTES
    used = styles(components < _WIDE)
    blocks = max((_blocks(width, height, each) for each in used), default=0)
    # Packets, one per layer, level and precinct, also take time.
    layers = max((each.layers for each in used), default=0)
    places = max((_places(width, height, each) for each in used), default=0)
    packets = layers * (places + tiles)
    inner = (blocks * _BLOCK + packets) * components
    return width * height + tiles * tile + inner


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _copied_bytes(content: bytes, start: int) -> int:
    """Returns the number of main header bytes copied for each tile."""
    place, copied, count = start + 2, 0, 0
    while place + 4 <= len(content) and content[place + 1] != _START_OF_TILE:
        length = struct.unpack_from(">H", content, place + 2)[0]
        copied += length if content[place + 1] in _COPIED else 0
        place += 2 + max(length, 2)
        count += 1
        parts.check_count(count, _MAX_SEGMENTS, "segments")
    return copied


class _Style(NamedTuple):
    """A coding style, from a COD or COC segment.

    Attributes:
      layers: number of layers; 0 in the style of a component.
      block: exponents of a code block's sides.
      precincts: one byte per level with the exponents of its precincts' sides.
    """

    layers: int
    block: tuple[int, int]
    precincts: bytes


def _styles(content: bytes, few_components: bool) -> set[_Style]:
    """Returns the distinct coding styles in a file.

    Any tile's header may contain styles, so the whole file is searched;
    compressed data is unlikely to contain a match.
    """
    styles = set()
    for count, match in enumerate(_STYLE.finditer(content), 1):
        parts.check_count(count, _MAX_MATCHES, "coding styles")
        if style := _style(content, match, few_components):
            styles.add(style)
            parts.check_count(
                len(styles), _MAX_STYLES, "different coding styles"
            )
    return styles


def _style(
    content: bytes, match: re.Match, few_components: bool
) -> _Style | None:
    place = match.start() + 4
    fields, layers = place + 5, content[place + 2 : place + 4]
    if match[0][1] == _COMPONENT_STYLE:
        place += 1 if few_components else 2
        fields, layers = place + 1, b""
    levels, *block, _, kind = content[fields : fields + 5].ljust(5, b"\xff")
    precincts = b""
    if levels <= 32 and content[place : place + 1] and content[place] & 1:
        precincts = content[fields + 5 : fields + 6 + levels]
    end = match.start() + 2 + content[match.start() + 3]
    if end != fields + 5 + len(precincts) or max(block) > 8 or kind > 1:
        return None
    return _Style(
        int.from_bytes(layers, "big"),
        (block[0] + 2, block[1] + 2),
        precincts or bytes([_WHOLE]) * (levels + 1),
    )


def _blocks(width: int, height: int, style: _Style) -> int:
    """Returns the number of code blocks per component.

    A precinct has at least one code block.
    """
    count = 0
    for level, precinct in enumerate(style.precincts):
        halved = 1 if level else 0  # All bands but the first are half the size.
        wide = min(style.block[0], max((precinct & 15) - halved, 0))
        high = min(style.block[1], max((precinct >> 4) - halved, 0))
        scale = len(style.precincts) - 1 - level
        across = _ceil(width, 1 << (scale + wide))
        count += across * _ceil(height, 1 << (scale + high))
    return count


def _places(width: int, height: int, style: _Style) -> int:
    """Returns the number of packet positions, summed over all levels."""
    scales = range(len(style.precincts) - 1, -1, -1)
    pairs = list(zip(scales, style.precincts, strict=True))
    wide = min(scale + (precinct & 15) for scale, precinct in pairs)
    high = min(scale + (precinct >> 4) for scale, precinct in pairs)
    grid = _ceil(width, 1 << wide) * _ceil(height, 1 << high)
    return grid * len(pairs)
