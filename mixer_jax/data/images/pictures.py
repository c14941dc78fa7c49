"""Conversion of paths, bytes, PIL images and arrays to square RGB pixels."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from mixer_jax.data.images import decoding, faults, memory
from mixer_jax.data.images.memory import MAX_PIXELS
from mixer_jax.runtime.errors import UserError

Picture = str | os.PathLike | bytes | Image.Image | np.ndarray | jax.Array

_ACCEPTED = (
    "a path, the bytes of an image file, a PIL image, or an array [H, W], "
    "[H, W, 3] or [H, W, 4] of uint8 or of floats from 0 to 1"
)


def to_pixels(
    picture: Picture, size: int, max_pixels: int | None = MAX_PIXELS
) -> np.ndarray:
    """Converts a picture to a square, scaled as in `decoding.decode`.

    Args:
      picture: a path, the bytes of an image file, a PIL image, or an array
        `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` of uint8 or of floats
        from 0 to 1; channels are gray, RGB or RGBA.
      size: S, the side of the square in pixels.
      max_pixels: the maximum number of decoded pixels; None for no limit.

    Returns:
      uint8 `[S, S, 3]`, RGB.

    Raises:
      UnreadableImageError: if a file, its bytes or an open PIL image cannot be
        decoded.
      UserError: if the picture has another type, shape or range.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return decoding.decode(bytes(picture), size, max_pixels)
    if isinstance(picture, str | os.PathLike):
        return decoding.decode(picture, size, max_pixels)
    if isinstance(picture, np.ndarray | jax.Array):
        picture = _from_array(np.asarray(picture))
    if not isinstance(picture, Image.Image):
        raise UserError(
            f"A picture cannot be of type {type(picture).__name__}; pass "
            f"{_ACCEPTED}."
        )
    area = picture.width * picture.height
    is_open = bool(getattr(picture, "tile", None))  # opened but not decoded
    if is_open and max_pixels and area > max_pixels:
        reason = (
            f"it has {picture.width} x {picture.height} pixels, more than the "
            f"limit of {max_pixels / 1e6:.6g} megapixels; scale it down"
        )
        raise faults.unreadable("an image", faults.TOO_LARGE, reason)
    with memory.BUDGET.reserve(memory.BYTES_PER_PIXEL * area):
        return _fit_copy(picture, size)


def _fit_copy(picture: Image.Image, size: int) -> np.ndarray:
    try:
        copy = picture.copy()
    except Exception as error:  # PIL raises many error types.
        reason = f"cannot be decoded: {faults.CORRUPT} ({error or repr(error)})"
        raise faults.unreadable("an image", faults.CORRUPT, reason) from error
    return decoding.fit(copy, size)


def check_list(pictures: Any, name: str) -> Sequence[Picture | None]:
    """Returns `pictures` as a sequence.

    Args:
      pictures: a list, a tuple, or an array with one picture per row.
      name: the name of the argument, for the error message.

    Raises:
      UserError: if `pictures` is a single picture or not iterable.
    """
    is_array = isinstance(pictures, np.ndarray | jax.Array)
    single = isinstance(pictures, str | bytes | os.PathLike | Image.Image)
    if single or (is_array and pictures.ndim < 4):
        raise UserError(
            f"{name} is a single picture; put it in a list: {name}=[picture]."
        )
    try:
        return list(pictures)
    except TypeError:
        raise UserError(
            f"{name} is of type {type(pictures).__name__}; pass a list of "
            "pictures."
        ) from None


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise UserError(
            f"An array of shape {array.shape} is not a picture; pass "
            f"{_ACCEPTED}."
        )
    if array.ndim == 3 and channels == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise UserError(
                f"A float picture has values from {array.min():g} to "
                f"{array.max():g}; scale them to the range from 0 to 1."
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(
            f"An array of dtype {array.dtype} is not a picture; pass "
            f"{_ACCEPTED}."
        )
    return Image.fromarray(np.ascontiguousarray(array))
