"""Sums over all axes but the channels, and operations that use them.

For a sum over pixels that keeps the channels, XLA's CPU backend generates
scalar code; explicit sums over groups of the batch, followed by a matrix
product, are several times faster. Accelerators use the plain reduction.
"""

from collections.abc import Callable
from functools import partial
from math import gcd

import jax
import jax.numpy as jnp
from jax import lax


def add_groups(term: Callable[[int], jax.Array], count: int) -> jax.Array:
    """Returns the sum of `term(index)` over all groups of a batch.

    Explicit sums vectorize over the channels. Make the group the inner index
    when splitting the batch axis, so that a batch sharded over devices stays
    sharded.
    """
    return sum(term(index) for index in range(count))


def sum_pixels(x_NxHxWxC: jax.Array) -> jax.Array:
    """Sums over all axes but the last by matrix product; returns f32 [C]."""
    channels = x_NxHxWxC.shape[-1]
    x_MxC = x_NxHxWxC.reshape(-1, channels)
    ones = jnp.ones((1, x_MxC.shape[0]), x_MxC.dtype)
    return jnp.dot(ones, x_MxC, preferred_element_type=jnp.float32)[0]


def sum_terms(
    term: Callable[..., jax.Array], *arrays_BxHxWxC: jax.Array
) -> jax.Array:
    """Sums `term(*arrays)` over all axes but the last, in one pass.

    Args:
      term: an elementwise function of the arrays in f32; it may use
        per-channel constants.
      *arrays_BxHxWxC: arrays of the same shape.

    Returns:
      f32 [C]. Its gradient is not optimized.
    """

    def as_f32(*arrays):
        return term(*(x.astype(jnp.float32) for x in arrays))

    def grouped(*arrays):
        count = gcd(arrays[0].shape[0], 8)
        arrays = [x.reshape(-1, count, *x.shape[1:]) for x in arrays]
        return sum_pixels(
            add_groups(lambda i: as_f32(*(x[:, i] for x in arrays)), count)
        )

    def reduced(*arrays):
        return jnp.sum(as_f32(*arrays), (0, 1, 2))

    return lax.platform_dependent(*arrays_BxHxWxC, cpu=grouped, default=reduced)


@jax.custom_vjp
def add_bias(x_BxHxWxC: jax.Array, bias_C: jax.Array) -> jax.Array:
    """Adds one value per channel; the gradient uses `sum_terms`."""
    return x_BxHxWxC + _per_channel(bias_C.astype(x_BxHxWxC.dtype))


def _add_bias_forward(x, bias):
    return add_bias(x, bias), bias


def _add_bias_backward(bias, gradient):
    return gradient, sum_terms(lambda x: x, gradient).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize_batch(
    x_BxHxWxC: jax.Array, scale_C: jax.Array, bias_C: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes with the statistics of the batch (arXiv 1502.03167).

    The backward pass needs only the input and per-channel values; automatic
    differentiation would take twice the time.

    Args:
      x_BxHxWxC: the feature map.
      scale_C: f32.
      bias_C: f32.
      epsilon: added to the variance.

    Returns:
      The normalized map, in the dtype of the input, and the mean and the
      biased variance per channel, f32 [C], which carry no gradient.
    """
    return _normalize_forward(x_BxHxWxC, scale_C, bias_C, epsilon)[0]


def _normalize_forward(x, scale, bias, epsilon):
    count = x.size // x.shape[-1]
    mean = sum_terms(lambda x: x, x) / count
    center = _per_channel(mean)
    var = sum_terms(lambda x: jnp.square(x - center), x) / count
    factor = _per_channel(scale * lax.rsqrt(var + epsilon))
    out = (x - center) * factor + _per_channel(bias)
    return (out.astype(x.dtype), mean, var), (x, scale, mean, var)


def _normalize_backward(epsilon, saved, gradients):
    x, scale, mean, var = saved
    gradient = gradients[0]
    count = x.size // x.shape[-1]
    spread = lax.rsqrt(var + epsilon)
    center = _per_channel(mean)
    by_bias = sum_terms(lambda g: g, gradient)
    by_scale = spread * sum_terms(lambda g, x: g * (x - center), gradient, x)
    by_x = (
        gradient
        - _per_channel(by_bias / count)
        - (x - center) * _per_channel(spread * by_scale / count)
    ) * _per_channel(scale * spread)
    return by_x.astype(x.dtype), by_scale, by_bias


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


def _per_channel(x_C):
    return x_C[None, None, None]
