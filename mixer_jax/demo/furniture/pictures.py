"""Writes the pictures of the table: catalog pictures and composed queries."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.data.tables.holdout import digest
from mixer_jax.demo.furniture import cutouts, shots
from mixer_jax.demo.furniture.scenes import composing
from mixer_jax.runtime import files, threads

# Part of the file names: increase it when queries are composed differently.
VERSION = 1
_QUALITY = 90  # of the JPEG files
_FEW = 100  # with fewer pictures, starting processes does not pay off
_CHUNK = 32  # pictures per process task


class Query(NamedTuple):
    """A query picture to compose.

    Attributes:
      key: the product's key.
      number: the number of the view.
      cutout: the path of the cutout.
      other: the path of another product's cutout, for mosaics.
      path: the path of the picture.
      size: its side in pixels.
    """

    key: str
    number: int
    cutout: Path
    other: Path | None
    path: Path
    size: int


def neighbor(key: str, number: int, candidates: list[str]) -> str | None:
    """Returns the product that a mosaic shows beside another one.

    It depends little on the other candidates: it only changes if the chosen
    one is missing, or one with a smaller hash is added.
    """
    others = [other for other in candidates if other != key]
    return min(
        others,
        key=lambda other: digest("neighbor", key, str(number), other),
        default=None,
    )


def compose(queries: list[Query]) -> Iterator[None]:
    """Composes the missing pictures; yields after each, in their order."""
    if len(queries) < _FEW:
        yield from map(_compose, queries)
        return
    with threads.process_pool() as pool:
        with threads.shielded():
            done = pool.map(_compose, queries, chunksize=_CHUNK)
        yield from done


def write_document(content: bytes, path: Path, size: int) -> None:
    """Writes a catalog picture, scaled to a square on white, if it is missing.

    Args:
      content: the content of the picture's file.
      path: the path of the PNG file.
      size: its side in pixels.

    Raises:
      decoding.UnreadableImageError: if the picture is damaged.
    """
    if not cutouts.is_kept(path):
        pixels = decoding.decode(content, size)
        _save(pixels, path, "png", compress_level=6)


def _compose(query: Query) -> None:
    if cutouts.is_kept(query.path):
        return
    other = query.other and cutouts.load(query.other)
    pixels = composing.compose(
        shots.kind(query.number),
        cutouts.load(query.cutout),
        other,
        shots.generator("compose", query.key, query.number),
        query.size,
    )
    _save(pixels, query.path, "jpeg", quality=_QUALITY)


def _save(pixels: np.ndarray, path: Path, format: str, **options: int) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format, **options)
    files.write(
        path,
        lambda draft: draft.write_bytes(content.getvalue()),
        one_of_many=True,
    )
