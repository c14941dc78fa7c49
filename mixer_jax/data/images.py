"""Image files -> square RGB pixels, and a check of all files beforehand."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from mixer_jax.data import table
from mixer_jax.errors import UserError

_CHUNK = 64  # files a thread takes at once
_ORIENTATION = 0x0112  # EXIF tag


class UnreadableImageError(UserError):
    """An image file that is missing or cannot be decoded."""


def decode(source: str | os.PathLike | bytes, size: int) -> np.ndarray:
    """Decodes an image to a square: rotated as EXIF says, whole, on white.

    Args:
      source: a path, or the bytes of a PNG, JPEG, WebP ... file.
      size: S, the side of the square in pixels; the longer side of the image
        is scaled to it and the rest is white.

    Returns:
      uint8 [S, S, 3], RGB.

    Raises:
      UnreadableImageError: if the file is missing or cannot be decoded.
    """
    if isinstance(source, bytes):
        name, file = "an image", io.BytesIO(source)
    else:
        name, file = str(source), source
    try:
        with Image.open(file) as image:
            # JPEG alone: decodes at the nearest smaller scale, much faster.
            image.draft("RGB", (size, size))
            return _square(_upright(image), size)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{name}: the file is missing.") from error
    except Exception as error:  # Corrupt bytes raise a dozen types in PIL.
        reason = str(error).replace(repr(file), "the file") or repr(error)
        raise UnreadableImageError(
            f"{name}: cannot be decoded ({reason})."
        ) from error


def blank(size: int) -> np.ndarray:
    """Returns the white square that stands for no image, uint8 [S, S, 3]."""
    return np.full((size, size, 3), 255, np.uint8)


def check_images(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    max_skipped: float,
    threads: int | None = None,
) -> tuple[pd.DataFrame, table.Skipped]:
    """Decodes every image of a frame once and leaves out what fails.

    Args:
      frame: rows of a sample table.
      root: the folder that the paths are relative to.
      max_skipped: the largest share of the rows that may be left out.
      threads: decoding threads, one image in memory each; default one a core.

    Returns:
      The kept rows, and what was left out.

    Raises:
      UserError: above `max_skipped`; lists the first ten, each with its row,
        path and reason.
    """
    root = Path(root)
    codes, paths = pd.factorize(frame["image"])
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]

    def check(chunk: Sequence[str]) -> list[str]:
        return [_fault(root / path) if path else "" for path in chunk]

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        faults = [fault for done in pool.map(check, chunks) for fault in done]
    bad = np.array([bool(fault) for fault in faults], bool)[codes]
    rows = np.flatnonzero(bad)
    reasons = [faults[codes[row]] for row in rows]
    skipped = table.skip(frame, rows, reasons, "missing or corrupt images")
    remedy = (
        f"Mend these files under {root}, remove their rows, or raise "
        "data.max_skipped."
    )
    return frame[~bad], skipped.require(max_skipped, remedy)


def _fault(path: Path) -> str:
    """Says what is wrong with an image file; "" if nothing is."""
    try:
        decode(path, 32)
    except UnreadableImageError as error:
        return str(error)
    return ""


def _upright(image: Image.Image) -> Image.Image:
    if image.getexif().get(_ORIENTATION, 1) != 1:
        return ImageOps.exif_transpose(image)
    return image


def _square(image: Image.Image, size: int) -> np.ndarray:
    """Scales the longer side to `size` and centres the rest on white."""
    image = _on_white(image)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize(
            (width, height), Image.Resampling.BICUBIC, reducing_gap=2.0
        )
    pixels = np.asarray(image)
    if width == height:
        return pixels
    square = blank(size)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        # Sixteen bits a pixel, which convert() would clip instead of scale.
        pixels = np.asarray(image, np.int64) >> 8
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image)
    return image.convert("RGB")
