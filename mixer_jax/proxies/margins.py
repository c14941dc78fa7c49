"""Margins: functions applied to the target cosine before the softmax.

A margin is a smooth function of the target cosine and a size; the head
multiplies its result by the scale and uses its exact derivative. All margins
decrease with the angle over the whole of [0, pi], so that even a sample
on the side opposite its proxy is pulled toward it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.runtime.errors import UserError

Margin = Callable[[jax.Array, jax.typing.ArrayLike], jax.Array]

_BLOCK = 2**20  # categories whose sizes are computed at once, in float64
_MIN_SQUARED_SINE = 1e-7  # d sine / d cosine is infinite at angles 0 and pi


def normface(cosine: jax.Array, size: jax.typing.ArrayLike) -> jax.Array:
    """Returns the cosine unchanged: `cos(t)`. NormFace, arXiv 1704.06369."""
    del size
    return cosine


def cosface(cosine: jax.Array, size: jax.typing.ArrayLike) -> jax.Array:
    """Subtracts a margin: `cos(t) - m`. CosFace, arXiv 1801.09414."""
    return cosine - size


def arcface(cosine: jax.Array, size: jax.typing.ArrayLike) -> jax.Array:
    """Adds a margin to the angle: `cos(t + m)`. ArcFace, arXiv 1801.07698.

    Where `t + m` exceeds pi, the result is `-cos(t + m) - 2`, which keeps
    decreasing and has the same value and slope at pi.

    Args:
      cosine: cosines of the angle t, of any shape.
      size: m in [0, pi), radians; broadcast against `cosine`.
    """
    cosine = jnp.clip(cosine, -1.0, 1.0)
    sine = jnp.sqrt(jnp.maximum(1.0 - cosine * cosine, _MIN_SQUARED_SINE))
    moved = cosine * jnp.cos(size) - sine * jnp.sin(size)
    return jnp.where(cosine > -jnp.cos(size), moved, -moved - 2.0)


MARGINS = {"arcface": arcface, "cosface": cosface, "normface": normface}


def make_margin(name: str) -> Margin:
    """Returns the margin function called `name`.

    Raises:
      UserError: if there is no margin of that name.
    """
    if name not in MARGINS:
        raise UserError(
            f"config.head.margin is {name!r}; it must be one of "
            f"{', '.join(sorted(MARGINS))}."
        )
    return MARGINS[name]


def by_frequency(counts: np.ndarray, size: float, power: float) -> np.ndarray:
    """Returns a margin size for each category, larger for rare ones.

    The size for a category of n samples is `size (n / n_min)^-power`, so the
    rarest has `size`. A power of 1/4 gives LDAM (Cao et al., arXiv
    1906.07413); 0 gives all categories the same size.

    Args:
      counts: int `[C]`, the number of training samples of each category, at
        least 1.
      size: margin size for the rarest category.
      power: how fast margins decrease with frequency, 0 or more.

    Returns:
      f32 `[C]`.
    """
    sizes, smallest = np.empty(len(counts), np.float32), counts.min()
    for start in range(0, len(counts), _BLOCK):
        part = slice(start, start + _BLOCK)
        sizes[part] = size * (counts[part] / smallest) ** -power
    return sizes
