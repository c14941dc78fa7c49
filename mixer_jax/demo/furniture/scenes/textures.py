"""Procedural textures: functions of coordinates on a plane.

A texture maps coordinates u and v, f32 [H, W] in units of about one tile or
plank, to colors, f32 [H, W, 3] from 0 to 1. It is defined on the whole plane,
so it can be seen in perspective.
"""

import colorsys
from collections.abc import Callable

import numpy as np

Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]
_LATTICE = 64  # period of the noise


def draw(rng: np.random.Generator) -> Texture:
    """Returns a random texture, which itself is deterministic."""
    kinds = (plain, blotches, planks, tiles, bricks, stripes)
    return kinds[rng.integers(len(kinds))](rng)


def plain(rng: np.random.Generator) -> Texture:
    """Returns a painted wall: one color with faint grain."""
    color, noise = _color(rng), _noise(rng)

    def paint(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return _shade(color, 0.06 * noise(9 * u, 9 * v))

    return paint


def blotches(rng: np.random.Generator) -> Texture:
    """Returns a mixture of two colors, as in stone, lawn or fabric."""
    first, second = _color(rng), _color(rng)
    noise, octaves = _noise(rng), rng.integers(2, 5)

    def paint(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        layers = [noise(u * 2**k, v * 2**k) / 2**k for k in range(octaves)]
        share = np.clip(0.5 + sum(layers), 0, 1)[..., None]
        return first * share + second * (1 - share)

    return paint


def planks(rng: np.random.Generator) -> Texture:
    """Returns a wooden floor."""
    hue, value = rng.uniform(0.04, 0.11), rng.uniform(0.3, 0.85)
    color = _rgb(hue, rng.uniform(0.3, 0.7), value)
    noise, length = _noise(rng), rng.uniform(3, 8)
    tone, offset = rng.uniform(-0.2, 0.2, 64), rng.uniform(0, 1, 64)

    def paint(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        row = np.floor(u).astype(int) % 64
        place = v / length + offset[row]
        board = (row * 7 + np.floor(place).astype(int)) % 64
        grain = 0.15 * noise(8 * u + 5 * board, 0.7 * v)
        seam = _gap(u, 0.03) | _gap(place, 0.03 / length)
        return _shade(color, tone[board] + grain - 0.4 * seam)

    return paint


def tiles(rng: np.random.Generator) -> Texture:
    """Returns a floor of tiles in two colors."""
    colors = np.stack([_color(rng), _color(rng)])
    if rng.random() < 0.5:
        colors[1] = colors[0]
    joint, noise = rng.uniform(0.2, 0.9), _noise(rng)

    def paint(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        parity = (np.floor(u) + np.floor(v)).astype(int) % 2
        painted = _shade(colors[parity], 0.08 * noise(3 * u, 3 * v))
        gap = _gap(u, 0.04) | _gap(v, 0.04)
        return np.where(gap[..., None], joint, painted)

    return paint


def bricks(rng: np.random.Generator) -> Texture:
    """Returns a brick wall."""
    color = _rgb(rng.uniform(0, 0.1), rng.uniform(0, 0.6), rng.uniform(0.3, 1))
    joint, noise = rng.uniform(0.4, 0.9), _noise(rng)
    tone = rng.uniform(-0.15, 0.15, 64)

    def paint(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        row = np.floor(2 * v).astype(int)
        along = u + 0.5 * (row % 2)
        brick = (row * 11 + np.floor(along).astype(int)) % 64
        painted = _shade(color, tone[brick] + 0.1 * noise(6 * u, 6 * v))
        gap = _gap(along, 0.05) | _gap(2 * v, 0.1)
        return np.where(gap[..., None], joint, painted)

    return paint


def stripes(rng: np.random.Generator) -> Texture:
    """Returns wallpaper or fabric with stripes."""
    first, second = _color(rng), _color(rng)
    width, soft = rng.uniform(0.2, 0.8), rng.uniform(5, 40)

    def paint(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        wave = np.sin(2 * np.pi * u) - np.cos(np.pi * width)
        share = 1 / (1 + np.exp(-soft * wave))[..., None]
        return first * share + second * (1 - share)

    return paint


def _noise(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Returns smooth noise from -0.5 to 0.5, a function of u and v."""
    lattice = rng.uniform(-0.5, 0.5, (_LATTICE, _LATTICE)).astype(np.float32)

    def value(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        left, top = np.floor(u), np.floor(v)
        x, y = (_smooth(f) for f in (u - left, v - top))
        i, j = (f.astype(int) % _LATTICE for f in (left, top))
        k, m = (i + 1) % _LATTICE, (j + 1) % _LATTICE
        above = lattice[i, j] * (1 - x) + lattice[k, j] * x
        below = lattice[i, m] * (1 - x) + lattice[k, m] * x
        return above * (1 - y) + below * y

    return value


def _smooth(share: np.ndarray) -> np.ndarray:
    return share * share * (3 - 2 * share)


def _gap(place: np.ndarray, width: float) -> np.ndarray:
    """Returns where a coordinate is within `width` above a whole number."""
    return place - np.floor(place) < width


def _shade(color: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Makes colors lighter or darker by a share, [H, W]."""
    return np.clip(color * (1 + change[..., None]), 0, 1)


def _color(rng: np.random.Generator) -> np.ndarray:
    # Rooms have pale walls and floors, rarely saturated ones.
    saturation = 0.7 * rng.random() ** 2
    return _rgb(rng.random(), saturation, rng.uniform(0.25, 1))


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    color = colorsys.hsv_to_rgb(hue, saturation, value)
    return np.array(color, np.float32)
