"""The two products of attention, in forms that CPUs run fast too.

XLA's CPU backend multiplies batches of matrices five times faster where the
left one's columns meet the right one's rows as they lie in memory. So there the
heads are brought in front of the tokens first; it would otherwise fold the
transposition into the product, and all gradients have products of the same
two kinds. Accelerators keep the einsum.
"""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Inner products of queries and keys, head by head.

    Args:
      query: [..., L, H, D].
      key: [..., M, H, D].

    Returns:
      [..., H, L, M].
    """

    def ordered(query, key):
        *batch, heads = *query.shape[:-3], query.shape[-2]
        found = _product(_heads_first(query), _heads_first(key, turn=True))
        return found.reshape(*batch, heads, *found.shape[1:])

    def native(query, key):
        return jnp.einsum("...lhd,...mhd->...hlm", query, key)

    return lax.platform_dependent(query, key, cpu=ordered, default=native)


def _scores_forward(query, key):
    return scores(query, key), (query, key)


def _scores_backward(saved, gradient):
    query, key = saved
    return mix(gradient, key), mix(gradient.swapaxes(-1, -2), query)


scores.defvjp(_scores_forward, _scores_backward)


@jax.custom_vjp
def mix(weights: jax.Array, value: jax.Array) -> jax.Array:
    """Sums of values by their weights, head by head.

    Args:
      weights: [..., H, L, M].
      value: [..., M, H, D].

    Returns:
      [..., L, H, D].
    """

    def ordered(weights, value):
        *batch, heads, length, _ = weights.shape
        flat = lax.optimization_barrier(
            weights.reshape(-1, *weights.shape[-2:])
        )
        found = lax.optimization_barrier(_product(flat, _heads_first(value)))
        found = found.reshape(*batch, heads, length, value.shape[-1])
        return found.swapaxes(-3, -2)

    def native(weights, value):
        return jnp.einsum("...hlm,...mhd->...lhd", weights, value)

    return lax.platform_dependent(weights, value, cpu=ordered, default=native)


def _mix_forward(weights, value):
    return mix(weights, value), (weights, value)


def _mix_backward(saved, gradient):
    weights, value = saved
    return scores(gradient, value), mix(weights.swapaxes(-1, -2), gradient)


mix.defvjp(_mix_forward, _mix_backward)


def _heads_first(x, turn=False):
    """[..., L, H, D] -> [N, L, D], or [N, D, L] where it is turned."""
    x = jnp.moveaxis(x, -2, -3)
    x = x.swapaxes(-1, -2) if turn else x
    return lax.optimization_barrier(x.reshape(-1, *x.shape[-2:]))


def _product(left, right):
    return lax.dot_general(left, right, (((2,), (1,)), ((0,), (0,))))
