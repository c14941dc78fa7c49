"""Backgrounds of the views: studios, walls with floors, and surfaces."""

import numpy as np

from mixer_jax.demo.furniture.scenes import textures

_OVERSAMPLING = 2  # per side, against aliasing


def draw(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws a background.

    Args:
      rng: the only source of randomness.
      size: S, the side in pixels; the draws do not depend on it.

    Returns:
      f32 [S, S, 3], from 0 to 1.
    """
    kinds = (_studio, _room, _room, _surface)
    fine = kinds[rng.integers(len(kinds))](rng, size * _OVERSAMPLING)
    shape = (size, _OVERSAMPLING, size, _OVERSAMPLING, 3)
    light = _gradient(rng, size)[..., None]
    picture = fine.reshape(shape).mean((1, 3)) * light
    return np.clip(picture, 0, 1).astype(np.float32)


def _studio(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns one color that fades to another."""
    colors = rng.uniform(0.3, 1, (2, 1)) + rng.uniform(-0.1, 0.1, (2, 3))
    _, y = _coordinates(size)
    share = (1 / (1 + np.exp(-8 * (y - rng.uniform(0.3, 0.8)))))[..., None]
    return colors[0] * (1 - share) + colors[1] * share


def _room(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns a wall above a floor that is seen in perspective."""
    wall, floor = textures.draw(rng), textures.draw(rng)
    edge = rng.uniform(0.4, 0.7)  # between wall and floor, from the top
    scale, turn = rng.uniform(3, 8), rng.uniform(-0.6, 0.6)
    x, y = _coordinates(size)
    picture = wall(scale * (x + 7), scale * (y + 7))
    # The horizon is above the edge, since the wall is not infinitely far away.
    depth = 0.5 / np.maximum(y - edge + 0.15, 0.05)
    u, v = (x - 0.5) * depth, depth
    u, v = (
        np.cos(turn) * u - np.sin(turn) * v,
        np.sin(turn) * u + np.cos(turn) * v,
    )
    below = floor(scale * (u + 7), scale * (v + 7))
    picture = np.where((y > edge)[..., None], below, picture)
    corner = 1 - 0.3 * np.exp(-np.abs(y - edge) * 30)
    return picture * corner[..., None]


def _surface(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns a texture that is seen from the front, rotated."""
    texture = textures.draw(rng)
    scale, turn = rng.uniform(2, 8), rng.uniform(0, 2 * np.pi)
    x, y = _coordinates(size)
    u = np.cos(turn) * x - np.sin(turn) * y
    v = np.sin(turn) * x + np.cos(turn) * y
    return texture(scale * (u + 7), scale * (v + 7))


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns uneven light, [S, S], around 1."""
    x, y = _coordinates(size)
    across, down = rng.uniform(-0.3, 0.3, 2)
    return 1 + across * (x - 0.5) + down * (y - 0.5)


def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of each pixel, f32 [S, S], from 0 to 1."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(line, (size, size)), np.broadcast_to(
        line[:, None], (size, size)
    )
