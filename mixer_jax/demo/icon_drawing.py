"""Drawing of SVG icons to PNG files, in parallel processes."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.runtime import files, threads
from mixer_jax.runtime.errors import UserError

_INK = "#222222"  # value of `currentColor`
_FAINTEST = 240  # pictures without a darker pixel count as blank
_CHUNK = 64  # icons per process task
_FEW = 500  # with fewer icons, starting processes does not pay off


class Drawing(NamedTuple):
    """Result of drawing one icon.

    Attributes:
      digest: digest of the pixels; b"" if no file was written.
      fault: why drawing failed; "" if it succeeded or the picture is blank.
    """

    digest: bytes
    fault: str = ""


def svg(icon: dict[str, Any], box: dict[str, float]) -> str:
    """Returns an icon as an SVG document.

    Args:
      icon: Iconify's data of the icon.
      box: the set's left, top, width and height, used where the icon has none.
    """
    left, top, width, height = (
        icon.get(key, box[key]) for key in ("left", "top", "width", "height")
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'color="{_INK}" viewBox="{left} {top} {width} {height}">'
        f"{icon.get('body', '')}</svg>"
    )


def file_key(document: str) -> str:
    """Returns a short hash of an SVG document, for its file name.

    A file with this name can be reused, even if it was drawn from another
    version of the package.
    """
    return hashlib.sha1(document.encode()).hexdigest()[:8]


def draw(
    batches: Iterable[list[tuple[str, Path]]], size: int, total: int
) -> Iterator[Drawing]:
    """Draws SVG documents to PNG files, on white.

    Existing files of this size are kept. Each batch is requested only after the
    previous one has been drawn, so only one batch is in memory at a time.

    Args:
      batches: lists of (document, path) pairs; missing folders are created.
      size: side of the square pictures in pixels.
      total: approximate number of documents in all batches.

    Returns:
      The drawings, in the order of the documents.

    Raises:
      UserError: if the renderer is not installed.
    """
    return run(functools.partial(_draw, _renderer(), size), batches, total)


def run(
    draw_one: Callable[[tuple[Any, Path]], Any],
    batches: Iterable[list[tuple[Any, Path]]],
    total: int,
) -> Iterator[Any]:
    """Yields drawing results, using parallel processes if there are many.

    Args:
      draw_one: draws one pair of a batch; must be picklable.
      batches: lists of (drawing, path) pairs; missing folders are created.
      total: approximate number of pairs in all batches.
    """
    if total < _FEW:
        for batch in batches:
            _make_folders(batch)
            yield from map(draw_one, batch)
        return
    # The renderer holds the GIL, so threads would not run in parallel.
    with threads.process_pool() as pool:
        for batch in batches:
            _make_folders(batch)
            with threads.shielded():
                drawn = pool.map(draw_one, batch, chunksize=_CHUNK)
            yield from drawn


def _renderer() -> Callable[..., bytes]:
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(
            "The icons are drawn by the package resvg_py, which is not "
            'installed; run `pip install "mixer_jax[demo]"`.'
        ) from error
    return resvg_py.svg_to_bytes


def _make_folders(batch: list[tuple[Any, Path]]) -> None:
    for folder in {path.parent for _, path in batch}:
        folder.mkdir(parents=True, exist_ok=True)


def _draw(
    svg_to_bytes: Callable[..., bytes], size: int, job: tuple[str, Path]
) -> Drawing:
    document, path = job
    pixels = _kept(path, size)
    if pixels is None:
        try:
            content = svg_to_bytes(
                svg_string=document,
                width=size,
                height=size,
                skip_system_fonts=True,
            )
        except ValueError as error:
            return Drawing(b"", str(error))
        pixels = decoding.decode(bytes(content), size)
        if pixels.min() >= _FAINTEST:
            return Drawing(b"")
        _save(pixels, path)
    return Drawing(hashlib.sha1(pixels.tobytes()).digest())


def _kept(path: Path, size: int) -> np.ndarray | None:
    """Returns a file's pixels, or None if it is unusable or of another size."""
    try:
        with Image.open(path) as image:
            if image.size != (size, size):
                return None
        return decoding.decode(path, size)
    except (OSError, decoding.UnreadableImageError):
        return None


def _save(pixels: np.ndarray, path: Path) -> None:
    # Most icons are gray, and one channel takes a third of the space.
    gray = (pixels == pixels[..., :1]).all()
    image = Image.fromarray(pixels[..., 0] if gray else pixels)
    files.write(
        path,
        lambda draft: image.save(draft, "png", compress_level=6),
        one_of_many=True,
    )
