"""Composes the query pictures from cutouts and backgrounds.

A cutout is the rendering of a product without its background: RGBA, uint8
[H, W, 4], trimmed to the product.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from mixer_jax.demo.furniture import shots
from mixer_jax.demo.furniture.scenes import backgrounds, textures

_COVERED = (0.15, 0.4)  # share of the product behind an occluder
_FILL = (0.65, 0.9)  # longer side of a product, as a share of its box
_FILL_BESIDE = (0.5, 0.75)  # the same for the other product of a mosaic
_SHARE = (0.58, 0.68)  # a product's share of the sides of a mosaic


class _Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def compose(
    kind: str,
    cutout: np.ndarray,
    other: np.ndarray | None,
    rng: np.random.Generator,
    size: int,
) -> np.ndarray:
    """Returns a query picture, uint8 [S, S, 3].

    Args:
      kind: one of `shots.KINDS`.
      cutout: the product.
      other: the cutout of another product, for mosaics.
      rng: the only source of randomness.
      size: S, the side in pixels.
    """
    picture = backgrounds.draw(rng, size)
    if kind == shots.MOSAIC:
        _draw_mosaic(picture, cutout, other, rng)
    else:
        box = _Box(0, 0, size, size)
        share = _place(picture, cutout, box, rng.uniform(*_FILL), rng)
        if kind == shots.HIDDEN:
            _cover(picture, share, rng)
    return _photograph(picture, rng)


def _draw_mosaic(
    picture: np.ndarray,
    cutout: np.ndarray,
    other: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draws the product and a smaller one beside, above or below it.

    Both are in one room, or each in a picture of its own.
    """
    size = len(picture)
    main, beside = _boxes(rng, size)
    if rng.random() < 0.5:
        area = np.s_[
            beside.top : beside.top + beside.height,
            beside.left : beside.left + beside.width,
        ]
        picture[area] = backgrounds.draw(rng, size)[area]
    _place(picture, other, beside, rng.uniform(*_FILL_BESIDE), rng)
    _place(picture, cutout, main, rng.uniform(0.8, 0.95), rng)


def _boxes(rng: np.random.Generator, size: int) -> tuple[_Box, _Box]:
    """Returns the boxes of the product and of the other one."""
    large = round(rng.uniform(*_SHARE) * size)
    small = size - large
    first = rng.random() < 0.5
    main, beside = (0, large) if first else (small, 0)
    if rng.random() < 0.7:
        return _Box(0, main, size, large), _Box(0, beside, size, small)
    return _Box(main, 0, large, size), _Box(beside, 0, small, size)


def _place(
    picture: np.ndarray,
    cutout: np.ndarray,
    box: _Box,
    fill: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws a cutout with its shadow into a box of a picture.

    Returns:
      The share of the product in each pixel, f32 [S, S].
    """
    height, width = cutout.shape[:2]
    scale = fill * min(box.height / height, box.width / width)
    shape = tuple(max(1, round(scale * side)) for side in (width, height))
    scaled = Image.fromarray(cutout).resize(shape, Image.Resampling.BICUBIC)
    layer = np.asarray(scaled, np.float32) / 255
    # A shopper's camera does not center the product exactly.
    along, across = rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.8)
    top = box.top + round(along * (box.height - shape[1]))
    left = box.left + round(across * (box.width - shape[0]))
    share = np.zeros(picture.shape[:2], np.float32)
    area = np.s_[top : top + shape[1], left : left + shape[0]]
    share[area] = layer[..., 3]
    picture *= (1 - _shadow(share, rng))[..., None]
    opacity = layer[..., 3:]
    picture[area] = picture[area] * (1 - opacity) + layer[..., :3] * opacity
    return share


def _shadow(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns how much a product's shadow darkens each pixel, f32 [S, S]."""
    size = len(share)
    down, right = size * rng.uniform(0, 0.05), size * rng.uniform(-0.05, 0.05)
    moved = ndimage.shift(share, (down, right), order=1)
    blurred = ndimage.gaussian_filter(moved, size * rng.uniform(0.01, 0.04))
    return rng.uniform(0.2, 0.6) * blurred


def _cover(
    picture: np.ndarray, share: np.ndarray, rng: np.random.Generator
) -> None:
    """Draws an occluder: something in front that hides part of the product."""
    size = len(picture)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    rows, columns = np.nonzero(share > 0.5)
    if not len(rows):
        rows, columns = np.nonzero(share == share.max())
    middle = rng.integers(len(rows))
    x0, y0 = x[0, columns[middle]], y[rows[middle], 0]
    turn, flat = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1)
    along = np.cos(turn) * (x - x0) + np.sin(turn) * (y - y0)
    across = np.cos(turn) * (y - y0) - np.sin(turn) * (x - x0)
    # The edge of a large thing, a bar, or something roundish.
    shapes = along, np.abs(along), np.hypot(flat * along, across)
    distance = shapes[rng.integers(len(shapes))]
    covered = rng.uniform(*_COVERED)
    limit = np.quantile(distance[rows, columns], covered)
    opacity = np.clip((limit - distance) * size + 0.5, 0, 1)[..., None]
    scale = rng.uniform(2, 6)
    color = textures.draw(rng)(scale * (along + 7), scale * (across + 7))
    color = color * rng.uniform(0.6, 1)
    picture[...] = picture * (1 - opacity) + color * opacity


def _photograph(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture as an imperfect camera sees it, uint8."""
    balance = rng.uniform(0.95, 1.05, 3)
    contrast, brightness = rng.uniform(0.85, 1.15), rng.uniform(-0.05, 0.05)
    picture = (picture * balance - 0.5) * contrast + 0.5 + brightness
    blur = rng.uniform(0, 0.005) * len(picture)
    picture = ndimage.gaussian_filter(picture, (blur, blur, 0))
    noise = rng.normal(0, rng.uniform(0, 0.02), picture.shape)
    return (np.clip(picture + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
