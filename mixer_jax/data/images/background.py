"""Another background for a picture on white.

Catalogues photograph on white and shoppers at home. What is white and goes on
to the picture's border is taken for background, and painted over.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

_WHITE = 235  # of 255: of all channels of what is white
_BORDER = 0.9  # share of the border that must be white
# Sides of the grid of colours that are blended: one colour, a gradient, blots.
_GRIDS = (1, 2, 5)


def replace(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the image on a random background, if it is on white.

    Args:
      image: uint8 [S, S, 3], RGB.
      rng: the only source of chance; the same is drawn of every image.

    Returns:
      uint8 [S, S, 3]: one colour, a gradient or blurred blots, where a white
      area was that goes on to the border; or `image` itself, where less than
      nine tenths of the border are white. White within the object is kept.
    """
    side = rng.choice(_GRIDS)
    colours = rng.integers(0, 256, (side, side, 3), np.uint8)
    share = share_of_background(image)
    if share is None:
        return image
    fresh = Image.fromarray(colours).resize(
        image.shape[1::-1], Image.Resampling.BICUBIC
    )
    mixed = image + share * (np.asarray(fresh, np.float32) - image)
    return (mixed + 0.5).astype(np.uint8)


def share_of_background(image: np.ndarray) -> np.ndarray | None:
    """Returns how much of each pixel is background, f32 [S, S, 1].

    It is 1 in the background, 0 away from it, and between them at its edge,
    where pixels are a mixture of both. None if the image is not on white.
    """
    white = image.min(-1) >= _WHITE
    border = [white[0], white[-1], white[:, 0], white[:, -1]]
    if np.concatenate(border).mean() < _BORDER:
        return None
    areas, count = ndimage.label(white)
    outside = np.zeros(count + 1, bool)
    for edge in (areas[0], areas[-1], areas[:, 0], areas[:, -1]):
        outside[edge] = True
    outside[0] = False  # what is not white
    # A pixel further in, so that nothing white is left around the object.
    share = ndimage.maximum_filter(outside[areas].astype(np.float32), 3)
    return ndimage.uniform_filter(share, 3, mode="nearest")[..., None]
