"""Crops images to the boxes in their names.

In memory, an image's box is stored in front of the file's bytes.
"""

import math
import re

from PIL import Image

_BOXED = re.compile(rb"\0box=([0-9,]{7,39})\0")  # no file starts like this


class OutsideError(ValueError):
    """Raised if a box does not overlap its image."""


def attach(content: bytes, box: str) -> bytes:
    """Returns the bytes of an image file with a box.

    Args:
      content: the bytes.
      box: "x1,y1,x2,y2" in pixels of the upright image; "" for none.
    """
    return b"\0box=%s\0%s" % (box.encode(), content) if box else content


def detach(content: bytes) -> tuple[bytes, str]:
    """Returns the bytes of an image file, and its box; "" if it has none."""
    found = _BOXED.match(content)
    if found is None:
        return content, ""
    return content[found.end() :], found[1].decode()


class Crop:
    """The box of an image, to be applied to a smaller copy of it."""

    def __init__(self, box: str, size: tuple[int, int]):
        """Takes a box as in `attach`, and the size of the stored image."""
        self._box = tuple(map(int, box.split(","))) if box else ()
        self._size = size

    def scaled(self, side: int) -> tuple[int, int]:
        """Returns the size of the whole image if the box has a given side.

        Args:
          side: the longer side of the box in pixels.
        """
        if not self._box:
            return side, side
        x1, y1, x2, y2 = self._box
        # The box may be larger than the image, and the image may be turned.
        longest = min(max(x2 - x1, y2 - y1), max(self._size))
        width, height = (side * whole / longest for whole in self._size)
        return math.ceil(width), math.ceil(height)

    def apply(self, image: Image.Image, turned: bool) -> Image.Image:
        """Returns the part of an image that is in the box.

        Args:
          image: the upright image, perhaps scaled down; closed if cropped.
          turned: whether the stored image has its width and height swapped.

        Raises:
          OutsideError: if the box does not overlap the image.
        """
        if not self._box:
            return image
        width, height = self._size[::-1] if turned else self._size
        x1, y1, x2, y2 = self._box
        if x1 >= width or y1 >= height:
            raise OutsideError(
                f"the crop box ({x1}, {y1}, {x2}, {y2}) does not overlap the "
                f"image of {width} x {height} pixels"
            )
        across, down = image.width / width, image.height / height
        cropped = image.crop(
            (
                math.floor(x1 * across),
                math.floor(y1 * down),
                math.ceil(min(x2, width) * across),
                math.ceil(min(y2, height) * down),
            )
        )
        image.close()
        return cropped
