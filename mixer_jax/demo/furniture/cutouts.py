"""Renders the cutouts of products in parallel processes, and keeps them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mixer_jax.demo.furniture import shots
from mixer_jax.demo.furniture.catalog import Product
from mixer_jax.demo.furniture.models import loading, poses, rendering
from mixer_jax.runtime import files, threads

# Part of the file names: increase it when equal shots are rendered differently.
VERSION = 1
_OVERSAMPLING = 3  # per side, against aliasing
_SMALLEST = 0.002  # visible share of the rendering below which it is blank
_FEW = 8  # with fewer products, starting processes does not pay off


class Task(NamedTuple):
    """The views of a product to render.

    Attributes:
      product: the product.
      views: the path of the cutout of each view, by number.
      size: the longer side of the cutouts in pixels.
    """

    product: Product
    views: dict[int, Path]
    size: int


class Result(NamedTuple):
    """The outcome of a task.

    Attributes:
      views: the numbers of the views that have a cutout.
      blank: the numbers of the views that show nothing.
      fault: why the model cannot be rendered; "" if it can.
    """

    views: tuple[int, ...]
    blank: tuple[int, ...] = ()
    fault: str = ""


def render(tasks: list[Task]) -> Iterator[Result]:
    """Yields the result of each task, in their order; keeps existing cutouts.

    Raises:
      UserError: if the renderer is not installed.
    """
    rendering.check()
    if len(tasks) < _FEW:
        yield from map(_render, tasks)
        return
    # The renderer holds the GIL, so threads would not run in parallel.
    with threads.process_pool() as pool:
        with threads.shielded():
            results = pool.map(_render, tasks)
        yield from results


def load(path: Path) -> np.ndarray:
    """Returns a cutout, uint8 [H, W, 4]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def checksum(product: Product, sums: dict[str, int]) -> str:
    """Returns a text that changes with the files of a product's model.

    Args:
      product: the product.
      sums: see `catalog.checksums`, of the product's catalog.
    """
    folder = product.model.rpartition("/")[0] + "/"
    own = {name: crc for name, crc in sums.items() if name.startswith(folder)}
    return repr(sorted(own.items()))


def is_kept(path: Path) -> bool:
    """Returns whether a picture exists and is intact."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):  # Pillow's error for damaged PNG files
        return False
    return True


def _render(task: Task) -> Result:
    missing = {k: path for k, path in task.views.items() if not is_kept(path)}
    try:
        blank = _render_views(task, missing) if missing else []
    except loading.UnusableModelError as error:
        return Result((), fault=str(error))
    visible = tuple(number for number in task.views if number not in blank)
    return Result(visible, tuple(blank))


def _render_views(task: Task, views: dict[int, Path]) -> list[int]:
    """Renders views of a product; returns the numbers of those left blank."""
    product, blank = task.product, []
    parts = poses.upright(loading.load(product), product.rotation, product.size)
    scene = rendering.Scene(parts, _OVERSAMPLING * task.size)
    with contextlib.closing(scene):
        for number, path in views.items():
            cutout = _trimmed(scene.render(shots.draw(product, number)))
            if cutout is None:
                blank.append(number)
            else:
                _save(cutout, path, task.size)
    return blank


def _trimmed(pixels: np.ndarray) -> np.ndarray | None:
    """Returns the part of a rendering that is not empty; None if it is blank.

    Args:
      pixels: uint8 [R, R, 4].
    """
    seen = pixels[..., 3] > 16
    if seen.mean() < _SMALLEST:
        return None
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _save(cutout: np.ndarray, path: Path, size: int) -> None:
    image = Image.fromarray(cutout)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    files.write(
        path,
        lambda draft: image.save(draft, "png", compress_level=6),
        one_of_many=True,
    )
