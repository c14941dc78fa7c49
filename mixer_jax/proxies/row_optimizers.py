"""Optimizers for sparse updates, in which each step touches only some rows.

Inactive rows keep their weights, moments and step counts. A row is therefore
updated as in a run with only the steps in which it was active, and with all
rows active each optimizer equals its optax counterpart. The drawback is that
the moments of a row are stale when it becomes active again. `weight_decay * w`
is added to the gradient, as by `optax.add_decayed_weights` before the
optimizer; since cosines do not depend on norms, weight decay only affects the
norm of a proxy.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mixer_jax.proxies.interface import RowOptimizer
from mixer_jax.runtime.errors import UserError


def sgd(momentum: float = 0.0, weight_decay: float = 0.0) -> RowOptimizer:
    """Returns SGD with momentum, equivalent to `optax.sgd`.

      v <- g + weight_decay * w + momentum * v
      w <- w - learning_rate * v

    Args:
      momentum: decay of the velocity; if 0, no velocity is kept.
      weight_decay: see the module's docstring.
    """

    def init(rows):
        return jnp.zeros_like(rows) if momentum else ()

    def update(gradients, velocity, rows, learning_rate, key):
        del key
        gradients = _decayed(gradients, rows, weight_decay)
        if momentum:
            gradients = velocity = gradients + momentum * velocity
        return rows - learning_rate * gradients, velocity

    return RowOptimizer(init, update)


def adagrad(weight_decay: float = 0.0, initial: float = 0.1) -> RowOptimizer:
    """Returns Adagrad, equivalent to `optax.adagrad`.

      a <- a + g^2
      w <- w - learning_rate * g / sqrt(a + 1e-7)

    See Duchi et al., JMLR 12 (2011). The effective learning rate decreases
    with the number of updates of a row rather than with the step, so that rare
    categories keep learning.

    Args:
      weight_decay: see the module's docstring.
      initial: initial value of the sums of squares.
    """

    def init(rows):
        return jnp.full_like(rows, initial)

    def update(gradients, squares, rows, learning_rate, key):
        del key
        gradients = _decayed(gradients, rows, weight_decay)
        squares += gradients * gradients
        scaled = jnp.where(
            squares > 0, gradients * jax.lax.rsqrt(squares + 1e-7), 0.0
        )
        return rows - learning_rate * scaled, squares

    return RowOptimizer(init, update)


def adam(
    weight_decay: float = 0.0, b1: float = 0.9, b2: float = 0.999
) -> RowOptimizer:
    """Returns Adam, like `optax.adam` but with a separate step count per row.

      m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2
      w <- w - learning_rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + 1e-8)

    See Kingma and Ba, arXiv 1412.6980. t counts the steps in which the row was
    active, so that the bias correction is right from the first such step.

    Args:
      weight_decay: see the module's docstring.
      b1: decay of the mean gradient.
      b2: decay of the mean square.
    """

    def init(rows):
        count = jnp.zeros_like(rows[:, :1])
        return jnp.zeros_like(rows), jnp.zeros_like(rows), count

    def update(gradients, moments, rows, learning_rate, key):
        del key
        mean, square, count = moments
        gradients = _decayed(gradients, rows, weight_decay)
        count += 1.0
        mean = b1 * mean + (1 - b1) * gradients
        square = b2 * square + (1 - b2) * gradients * gradients
        root = jnp.sqrt(square / (1 - b2**count))
        step = mean / (1 - b1**count) / (root + 1e-8)
        return rows - learning_rate * step, (mean, square, count)

    return RowOptimizer(init, update)


def sgd_bf16(weight_decay: float = 0.0) -> RowOptimizer:
    """Returns SGD without momentum on bf16 rows, with stochastic rounding.

    It needs a sixth of the memory of Adam on f32 rows, and a quarter of that of
    SGD with momentum on f32 rows. Updates below half a unit in the last place,
    which rounding to nearest would always discard, take effect on average: the
    expected rounded row is the exact row (Gupta et al., arXiv 1502.02551).

    Args:
      weight_decay: see the module's docstring.
    """

    def update(gradients, moments, rows, learning_rate, key):
        wide = rows.astype(jnp.float32)
        gradients = _decayed(gradients, wide, weight_decay)
        return round_by_chance(wide - learning_rate * gradients, key), moments

    return RowOptimizer(lambda rows: (), update)


def round_by_chance(x: jax.Array, key: jax.Array) -> jax.Array:
    """Rounds f32 to bf16 stochastically; the expected value is exact.

    Args:
      x: f32, of any shape.
      key: a PRNG key.

    Returns:
      bf16 of the same shape; non-finite values stay non-finite.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    # bf16 is the upper half of f32: a carry from the lower half rounds up.
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def cap_norms(optimizer: RowOptimizer, max_norm: float) -> RowOptimizer:
    """Wraps an optimizer to limit the norms of rows after each update.

    The gradient of a cosine is orthogonal to the row, so every step lengthens
    the row, and longer rows change direction more slowly.

    Args:
      optimizer: the optimizer to wrap.
      max_norm: maximum norm.
    """

    def update(gradients, moments, rows, learning_rate, key):
        rows, moments = optimizer.update(
            gradients, moments, rows, learning_rate, key
        )
        wide = rows.astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(wide * wide, -1, keepdims=True))
        over = norm > max_norm
        capped = wide * (max_norm / jnp.where(over, norm, max_norm))
        return jnp.where(over, capped.astype(rows.dtype), rows), moments

    return RowOptimizer(optimizer.init, update)


OPTIMIZERS: dict[str, Callable[[ConfigDict], RowOptimizer]] = {
    "adagrad": lambda c: adagrad(c.weight_decay),
    "adam": lambda c: adam(c.weight_decay),
    "sgd": lambda c: sgd(c.momentum, c.weight_decay),
    "sgd_bf16": lambda c: sgd_bf16(c.weight_decay),
}


def make_optimizer(config: ConfigDict) -> RowOptimizer:
    """Returns the row optimizer that a run's `config.proxies` describes.

    Raises:
      UserError: if there is no optimizer of that name.
    """
    if config.optimizer not in OPTIMIZERS:
        raise UserError(
            f"config.proxies.optimizer is {config.optimizer!r}; it must be one "
            f"of {', '.join(sorted(OPTIMIZERS))}."
        )
    optimizer = OPTIMIZERS[config.optimizer](config)
    if config.max_norm:
        optimizer = cap_norms(optimizer, config.max_norm)
    return optimizer


def rows_dtype(config: ConfigDict) -> jnp.dtype:
    """Returns the dtype of the proxies that a run's optimizer updates."""
    narrow = config.optimizer == "sgd_bf16"
    return jnp.dtype(jnp.bfloat16 if narrow else jnp.float32)


def _decayed(
    gradients: jax.Array, rows: jax.Array, weight_decay: float
) -> jax.Array:
    return gradients + weight_decay * rows if weight_decay else gradients
