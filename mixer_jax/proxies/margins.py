"""Margins: what the cosine to the own proxy is replaced with before softmax.

A margin is a smooth function of the target cosine and a size; the head
multiplies its result with the scale and takes its true derivative. All of them
fall with the angle over the whole of [0, pi], so that a sample on the far side
is pulled back too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.runtime.errors import UserError

Margin = Callable[[jax.Array, jax.typing.ArrayLike], jax.Array]

_MIN_SQUARED_SINE = 1e-7  # the angle's derivative is infinite at 0 and pi


def normface(cosine: jax.Array, size: jax.typing.ArrayLike) -> jax.Array:
    """No margin: `cos(t)`. NormFace, arXiv 1704.06369."""
    del size
    return cosine


def cosface(cosine: jax.Array, size: jax.typing.ArrayLike) -> jax.Array:
    """A margin on the cosine: `cos(t) - m`. CosFace, arXiv 1801.09414."""
    return cosine - size


def arcface(cosine: jax.Array, size: jax.typing.ArrayLike) -> jax.Array:
    """A margin on the angle: `cos(t + m)`. ArcFace, arXiv 1801.07698.

    Where `t + m` passes pi, the curve is turned over and goes on falling:
    `-cos(t + m) - 2`, which meets the first part in value and slope.

    Args:
      cosine: cosines of the angle t, of any shape.
      size: m in [0, pi), radians; of a shape that broadcasts.
    """
    cosine = jnp.clip(cosine, -1.0, 1.0)
    sine = jnp.sqrt(jnp.maximum(1.0 - cosine * cosine, _MIN_SQUARED_SINE))
    moved = cosine * jnp.cos(size) - sine * jnp.sin(size)
    return jnp.where(cosine > -jnp.cos(size), moved, -moved - 2.0)


MARGINS = {"arcface": arcface, "cosface": cosface, "normface": normface}


def make_margin(name: str) -> Margin:
    """Returns the margin `name`, a function of cosines and a size.

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
    """Returns a margin size for each category: rare ones get more.

    The size of a category of n samples is `size (n / n_min)^-power`, so the
    rarest has `size`. A power of 1/4 is that of LDAM (Cao et al., arXiv
    1906.07413), 0 gives all the same.

    Args:
      counts: int `[C]`, training samples of each category, 1 at least.
      size: of the rarest category.
      power: how fast margins fall with frequency, 0 or more.

    Returns:
      f32 `[C]`.
    """
    return (size * (counts / counts.min()) ** -power).astype(np.float32)
