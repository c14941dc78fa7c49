"""Decodes image files to square RGB pixels."""

import contextlib
import ctypes
import errno
import functools
import hashlib
import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

from mixer_jax.data.images import crops, faults, memory, parts, squares
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.images.memory import MAX_PIXELS
from mixer_jax.runtime import files
from mixer_jax.runtime.tabular import addresses, image_reader, references

# Pillow's own limit ignores that JPEGs can be decoded at a smaller scale.
Image.MAX_IMAGE_PIXELS = None
# A damaged file can cause thousands of messages, such as one per EXIF entry.
# Errors that prevent decoding are raised anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
with contextlib.suppress(AttributeError, OSError):  # absent in some builds
    _core = ctypes.CDLL(Image.core.__file__)
    _core.TIFFSetErrorHandler(None)  # libtiff prints its own messages
    _core.TIFFSetWarningHandler(None)
_CHECKED = 32  # size for which `check` decodes a JPEG, in pixels
# Memory use is unknown: decoding opens another image or starts a program.
_UNBOUNDED = {"BLP", "IPTC", "EPS"}
_READ = 1 << 20  # bytes per read of a file
_Made = TypeVar("_Made")


def read(path: str | os.PathLike) -> bytes:
    """Returns the bytes of an image file, without blocking on pipes.

    Args:
      path: the file, or the name of an image; see `references`.

    Returns:
      The bytes, with the crop box of the name, if any; see `crops`.

    Raises:
      UnreadableImageError: if the file cannot be read.
    """
    return read_with_status(path)[0]


def read_with_status(
    path: str | os.PathLike,
) -> tuple[bytes, tuple[int, int] | None]:
    """Like `read`, but also returns the size and time of the image file.

    Returns:
      The bytes, and the file's status after reading: its size in bytes and its
      modification time in nanoseconds; None for an image in a Parquet file.

    Raises:
      UnreadableImageError: see `read`.
    """
    (name, box), reference = references.split(path), references.parse(path)
    if reference is not None:
        content = _read_cell(reference, references.label(path))
        return crops.attach(content, box), None
    name, address = addresses.split(name)
    try:
        content, status = _read_file(name)
    except (OSError, ValueError) as error:
        kind = faults.of_system(error)
        reason = getattr(error, "strerror", None) or str(error)
        if kind == faults.MISSING:
            reason = "the file is missing"
            if address:
                reason = addresses.failure(name)
        elif kind == faults.FOLDER:
            reason = "it is a folder"
        raise UnreadableImageError(
            f"{references.label(path)}: {reason}.", kind
        ) from error
    return crops.attach(content, box), (status.st_size, status.st_mtime_ns)


def _read_file(name: str) -> tuple[bytes, os.stat_result]:
    """Returns the bytes of a regular file and its status after reading."""
    file = files.open_unblocked(name, os.O_RDONLY)
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        content = os.read(file, status.st_size + 1)
        # The file may have grown, and some systems return less per read.
        if len(content) != status.st_size:
            parts = [content]
            while parts[-1]:
                parts.append(os.read(file, _READ))
            content = b"".join(parts)
        return content, os.fstat(file)
    finally:
        os.close(file)


def digest(path: str | os.PathLike) -> str:
    """Returns an image's digest, comparable within the same table.

    Raises:
      UnreadableImageError: if the file cannot be read.
    """
    if (reference := references.parse(path)) is not None:
        return f"{reference.digest}#{references.split(path)[1]}"
    return hashlib.sha1(read(path), usedforsecurity=False).hexdigest()


def _read_cell(reference: references.Reference, label: str) -> bytes:
    """Returns the bytes of an image in a Parquet file."""
    try:
        return image_reader.read(reference)
    except (image_reader.ChangedError, pa.ArrowException) as error:
        kind, reason = faults.UNREADABLE, str(error)
    except OSError as error:
        kind = faults.of_system(error)
        reason = error.strerror or str(error)
    raise faults.unreadable(label, kind, reason)


def decode(
    source: str | os.PathLike | bytes,
    size: int,
    max_pixels: int | None = MAX_PIXELS,
    *,
    option: str = "",
    formats: Sequence[str] = (),
) -> np.ndarray:
    """Decodes an image to a square: rotated per EXIF, on white.

    Images are not cropped, except to their crop box, if they have one. A part
    of the box that is outside the image is ignored.

    Animations are decoded to their first frame. A JPEG is decoded at the
    smallest sufficient scale of 1, 1/2, 1/4 and 1/8, which is much faster. All
    threads of a process share `memory.BUDGET`: each waits for free memory.

    Args:
      source: a path, or the bytes of a PNG, JPEG, WebP ... file; either may
        have a crop box, see `references` and `crops`.
      size: S, the side of the square in pixels; the longer side of the image
        is scaled to it and the rest is white.
      max_pixels: the maximum number of decoded pixels; None for no limit. For a
        JPEG, it applies to the reduced size, unless the decoder keeps the full
        size in memory, as for progressive JPEGs.
      option: the option that sets `max_pixels`, for the error message.
      formats: Pillow's names of the accepted formats; default: all but BLP,
        IPTC and EPS.

    Returns:
      uint8 [S, S, 3], RGB.

    Raises:
      UnreadableImageError: if the file is missing or cannot be decoded.
    """
    return _decode_with(
        lambda image: squares.square(image, size),
        *(source, size, max_pixels, option, formats),
    )


def check(
    source: str | os.PathLike | bytes,
    max_pixels: int | None = MAX_PIXELS,
    *,
    option: str = "",
) -> None:
    """Decodes an image to find out whether it can be decoded.

    Decodes all bytes of the file, at a small scale if it is a JPEG. Scaling the
    pixels to a square could not fail and is omitted.

    Args:
      source: see `decode`.
      max_pixels: see `decode`.
      option: see `decode`.

    Raises:
      UnreadableImageError: if the file is missing or cannot be decoded.
    """
    _decode_with(squares.on_white, source, _CHECKED, max_pixels, option, ())


def _decode_with(
    finish: Callable[[Image.Image], _Made],
    source: str | os.PathLike | bytes,
    size: int,
    max_pixels: int | None,
    option: str,
    formats: Sequence[str],
) -> _Made:
    """Returns what `finish` makes of the upright, cropped image.

    Args:
      finish: called within the memory budget.
      source: see `decode`; also for the other arguments and errors.
      size: see `decode`.
      max_pixels: see `decode`.
      option: see `decode`.
      formats: see `decode`.
    """
    if isinstance(source, bytes):
        name, content = "an image", source
    else:
        name, content = references.label(source), read(source)
    content, box = crops.detach(content)
    try:
        accepted = tuple(formats) or None
        return _decode(finish, content, size, max_pixels, accepted, box)
    except crops.OutsideError as error:
        raise faults.unreadable(name, faults.NO_AREA, str(error)) from None
    except _TooManyPixelsError as error:
        reason = f"{error}{f' ({option})' if option else ''}; scale it down"
        raise faults.unreadable(name, faults.TOO_LARGE, reason) from None
    except parts.TooManyPartsError as error:
        reason = f"{error}; save it again with an image editor"
        raise faults.unreadable(name, faults.TOO_LARGE, reason) from None
    except Exception as error:  # PIL raises many error types.
        kind = faults.of_content(content, error, formats)
        reason = f"cannot be decoded: {kind} ({_reason(error, content, kind)})"
        raise faults.unreadable(name, kind, reason) from error


class _TooManyPixelsError(ValueError):
    """Raised if an image has more pixels than the limit."""


def _decode(
    finish: Callable[[Image.Image], _Made],
    content: bytes,
    size: int,
    max_pixels: int | None,
    formats: Sequence[str] | None,
    box: str,
) -> _Made:
    """Decodes within the memory budget; Pillow's errors propagate."""
    parts.check(content)
    budget, square = memory.BUDGET, memory.BYTES_PER_PIXEL * size * size
    declared = memory.declared(content)
    if declared is not None:
        whole, peak = declared
        _check_pixels(whole, whole[0] * whole[1], max_pixels)
        peak += memory.BYTES_PER_PIXEL * math.prod(whole) * bool(box)
        with budget.reserve(peak + square):
            image = _open(content, formats)
            return _load(finish, image, whole, crops.Crop(box, whole))
    image = _open(content, formats)
    whole = image.size
    crop = crops.Crop(box, whole)
    image.draft("RGB", crop.scaled(size))
    pixels, peak = memory.estimate(image, content, whole)
    _check_pixels(whole, pixels, max_pixels)
    peak += memory.BYTES_PER_PIXEL * math.prod(image.size) * bool(box)
    with budget.reserve(peak + square):
        try:
            return _load(finish, image, image.size, crop)
        finally:
            del image  # frees the decoder's memory


def _load(
    finish: Callable[[Image.Image], _Made],
    image: Image.Image,
    declared: tuple[int, int],
    crop: crops.Crop,
) -> _Made:
    with contextlib.closing(image):
        if image.width * image.height > declared[0] * declared[1]:
            raise ValueError("the header has conflicting sizes")
        turned = memory.is_turned(image)
        return finish(crop.apply(_upright(image), turned))


def _open(content: bytes, formats: Sequence[str] | None) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=formats or _formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the names of the formats accepted by default."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _UNBOUNDED)


def _check_pixels(
    whole: tuple[int, int], pixels: int, max_pixels: int | None
) -> None:
    if not max_pixels or pixels <= max_pixels:
        return
    inner = ""
    if pixels > whole[0] * whole[1]:
        inner = f" but needs the memory of {_count(pixels)}"
    raise _TooManyPixelsError(
        f"it has {whole[0]} x {whole[1]} pixels{inner}, more than the limit "
        f"of {_count(max_pixels)}"
    )


def _count(pixels: int) -> str:
    if pixels < 1_000_000:
        return f"{pixels} pixels"
    return f"{pixels / 1e6:.6g} megapixels"


def _reason(error: Exception, content: bytes, kind: str) -> str:
    if kind in (faults.NOT_AN_IMAGE, faults.UNSUPPORTED):
        return f"it is {faults.describe(content)}"
    if isinstance(error, UnidentifiedImageError):
        return "the header cannot be read"
    return str(error) or repr(error)


def fit(image: Image.Image, size: int) -> np.ndarray:
    """Converts an open image to a square, scaled as in `decode`.

    Args:
      image: any PIL image; closed afterwards.
      size: S, the side of the square in pixels.

    Returns:
      uint8 [S, S, 3], RGB.

    Raises:
      UnreadableImageError: if the image cannot be read or converted.
    """
    try:
        return squares.square(_upright(image), size)
    except Exception as error:
        reason = f"cannot be converted to RGB ({error or repr(error)})"
        raise faults.unreadable(
            "an image", faults.UNSUPPORTED, reason
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    if not memory.is_rotated(image):
        return image
    upright = ImageOps.exif_transpose(image)
    image.close()  # frees its pixels
    return upright
