"""Thumbnails of the pictures of a simulated log."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mixer_jax.errors import UserError

_MAX_PIXELS = 200_000_000


def read(path: Path, side: int) -> np.ndarray:
    """Returns a picture on white as `[side * side * 3]` float32.

    Raises:
      UserError: if it cannot be decoded.
      OSError: if there is no such file.
    """
    try:
        # Of the decoder; what matters is raised.
        with warnings.catch_warnings(action="ignore"):
            small = _shrink(path, side)
    except Exception as error:  # Corrupt bytes raise a dozen types in PIL.
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{path}: the file cannot be decoded as a picture; repair it or "
            "remove its row from the table."
        ) from error
    return np.asarray(small, np.float32).reshape(-1)


def _shrink(path: Path, side: int) -> Image.Image:
    with Image.open(path) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError("too many pixels")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white.convert("RGB").resize((side, side), Image.Resampling.BOX)
