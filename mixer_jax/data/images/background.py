"""Replaces the background of pictures on white.

Catalog photos have a white background, but shoppers' photos do not. White areas
that touch the picture's border count as background and are painted over.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

_WHITE = 235  # minimum value of each channel in white pixels, out of 255
_BORDER = 0.9  # minimum share of white pixels in the border
# Side lengths of the color grid: a single color, a gradient or blotches.
_GRIDS = (1, 2, 5)


def replace(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replaces an image's white background with a random one.

    Args:
      image: uint8 [S, S, 3], RGB.
      rng: the only source of randomness; the draws do not depend on the image.

    Returns:
      uint8 [S, S, 3] with one color, a gradient or blurred blotches in place
      of the white areas that touch the border. White inside the object is kept.
      Returns `image` itself if less than 90% of the border is white.
    """
    side = rng.choice(_GRIDS)
    colors = rng.integers(0, 256, (side, side, 3), np.uint8)
    share = share_of_background(image)
    if share is None:
        return image
    fresh = Image.fromarray(colors).resize(
        image.shape[1::-1], Image.Resampling.BICUBIC
    )
    mixed = image + share * (np.asarray(fresh, np.float32) - image)
    return (mixed + 0.5).astype(np.uint8)


def share_of_background(image: np.ndarray) -> np.ndarray | None:
    """Returns the share of background in each pixel, f32 [S, S, 1].

    The share is 1 in the background, 0 in the object, and in between at the
    edge, where pixels are a mixture of both. Returns None if the background is
    not white.
    """
    white = image.min(-1) >= _WHITE
    if _border(white).mean() < _BORDER:
        return None
    areas, count = ndimage.label(white)
    outside = np.zeros(count + 1, bool)
    outside[_border(areas)] = True
    outside[0] = False  # label of non-white pixels
    # Grow the area by a pixel to leave no white seam around the object.
    share = ndimage.maximum_filter(outside[areas].astype(np.float32), 3)
    return ndimage.uniform_filter(share, 3, mode="nearest")[..., None]


def _border(pixels: np.ndarray) -> np.ndarray:
    """Returns the pixels of the border; those in the corners occur twice."""
    sides = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return np.concatenate(sides)
