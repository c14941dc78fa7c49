"""Attention that saves no attention weights for the backward pass.

The weights, of shape [B, H, L, M], would be the largest arrays of a
transformer. The backward pass recomputes them from queries and keys, as in
FlashAttention (arXiv 2205.14135).

XLA's CPU backend is fastest with one head at a time, because the weights of one
head stay in the cache, and with explicitly transposed factors: a transposition
that XLA folds into a matrix product makes the product five times slower.
Accelerators compute all heads at once.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    dropout: float = 0.0,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Returns softmax(query . key / sqrt(D) + bias) . value for each head.

    Args:
      query: [..., L, H, D].
      key: [..., M, H, D].
      value: [..., M, H, E].
      bias: f32 [..., H, L, M], added to the logits; axes may have size 1.
        None for no bias.
      dropout: the dropout rate of the weights.
      rng: the random key for dropout; None turns dropout off.

    Returns:
      [..., L, H, E], in the values' dtype. The softmax is float32.
    """
    query = query * query.shape[-1] ** -0.5
    return _attend(query, key, value, bias, rng, dropout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, bias, rng, dropout):
    return lax.platform_dependent(
        *(query, key, value, bias, rng),
        cpu=functools.partial(_by_head, dropout),
        default=functools.partial(_at_once, dropout),
    )


def _attend_forward(query, key, value, bias, rng, dropout):
    inputs = query, key, value, bias, rng
    return _attend(*inputs, dropout), inputs


def _attend_backward(dropout, inputs, gradient):
    gradients = lax.platform_dependent(
        *(*inputs, gradient),
        cpu=functools.partial(_by_head_backward, dropout),
        default=functools.partial(_at_once_backward, dropout),
    )
    return *gradients, None


_attend.defvjp(_attend_forward, _attend_backward)


def _at_once(dropout, query, key, value, bias, rng):
    logits = jnp.einsum("...lhd,...mhd->...hlm", query, key)
    weights = _weights(logits, bias, rng, dropout)
    return jnp.einsum("...hlm,...mhd->...lhd", weights, value)


def _at_once_backward(dropout, query, key, value, bias, rng, gradient):
    def run(*inputs):
        return _at_once(dropout, *inputs, rng)

    return jax.vjp(run, query, key, value, bias)[1](gradient)


def _by_head(dropout, query, key, value, bias, rng):
    heads = _heads_first(query, key, value, bias)
    out = lax.map(
        lambda head: _one_head(dropout, *head),
        (*heads, _split(rng, len(heads[0]))),
    )
    return jnp.moveaxis(out, 0, -2)


def _by_head_backward(dropout, query, key, value, bias, rng, gradient):
    heads, undo = jax.vjp(_heads_first, query, key, value, bias)
    rngs = _split(rng, len(heads[0]))

    def backward(head):
        *inputs, rng, gradient = head

        def run(*inputs):
            return _one_head(dropout, *inputs, rng)

        return jax.vjp(run, *inputs)[1](gradient)

    gradient = jnp.moveaxis(gradient, -2, 0)
    return undo(lax.map(backward, (*heads, rngs, gradient)))


def _heads_first(query, key, value, bias):
    """Maps [..., L, H, D] to [H, ..., L, D], and keys to [H, ..., D, M]."""
    heads = query.shape[-2]
    query, key, value = (jnp.moveaxis(x, -2, 0) for x in (query, key, value))
    if bias is not None:
        *batch, _, rows, columns = bias.shape
        bias = jnp.broadcast_to(bias, (*batch, heads, rows, columns))
        bias = jnp.moveaxis(bias, -3, 0)
    return query, key.swapaxes(-1, -2), value, bias


def _split(rng, heads):
    return None if rng is None else jax.random.split(rng, heads)


def _one_head(dropout, query, turned_key, value, bias, rng):
    """Maps [..., L, D], [..., D, M] and [..., M, E] to [..., L, E]."""
    logits = _product(query, turned_key)
    return _product(_weights(logits, bias, rng, dropout), value)


def _weights(logits, bias, rng, dropout):
    logits_f32 = logits.astype(jnp.float32)
    if bias is not None:
        logits_f32 += bias
    weights = nn.softmax(logits_f32).astype(logits.dtype)
    if rng is None:
        return weights
    kept = jax.random.bernoulli(rng, 1 - dropout, weights.shape)
    # With a dropout rate of 1, avoid dividing 0 by 0.
    return jnp.where(kept, weights, 0) / ((1 - dropout) or 1)


@jax.custom_vjp
def _product(left, right):
    """Multiplies [..., L, K] by [..., K, M]; gradients use this product too."""
    return left @ right


def _product_forward(left, right):
    return _product(left, right), (left, right)


def _product_backward(factors, gradient):
    # The barrier keeps XLA from folding the transpositions into the products.
    left, right = (
        lax.optimization_barrier(x.swapaxes(-1, -2)) for x in factors
    )
    return _product(gradient, right), _product(left, gradient)


_product.defvjp(_product_forward, _product_backward)
