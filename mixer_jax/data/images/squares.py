"""Converts images to squares of RGB pixels on white."""

import numpy as np
from PIL import Image

_BAND = 1 << 18  # pixels composited on white at a time


def blank(size: int) -> np.ndarray:
    """Returns a white square, used for missing images, uint8 [S, S, 3]."""
    return np.full((size, size, 3), 255, np.uint8)


def square(image: Image.Image, size: int) -> np.ndarray:
    """Scales the longer side to `size` and centers the image on white.

    Args:
      image: an image in any mode but F; closed if it is converted.
      size: S, the side of the square in pixels.

    Returns:
      uint8 [S, S, 3], RGB.
    """
    image = on_white(image)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize(
            (width, height), Image.Resampling.BICUBIC, reducing_gap=2.0
        )
    if image.mode == "L":  # as late as possible: L scales three times as fast
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if width == height:
        return pixels
    canvas = blank(size)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def on_white(image: Image.Image) -> Image.Image:
    """Returns the image in mode RGB or L; closes the original if converted."""
    if image.mode == "F":
        raise ValueError("floating-point pixels are not supported")
    image.load()
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    width, height = image.size
    rows = max(1, _BAND // width)
    if rows >= height:
        return _band_on_white(image)
    # Convert in bands: memory may not suffice for a copy of a large image.
    canvas = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        canvas.paste(_band_on_white(band), (0, top))
    image.close()
    return canvas


def _band_on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit pixels, which convert() would clip instead of scaling.
        pixels = np.asarray(image, np.int64) >> 8
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image)
    return image.convert("RGB")
