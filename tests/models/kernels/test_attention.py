import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.kernels import attention
from mixer_jax.runtime import mesh as mesh_lib


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _plain(query, key, value, bias):
    """Attention by its definition, differentiated by JAX."""
    query = query / np.sqrt(query.shape[-1])
    logits = jnp.einsum("...lhd,...mhd->...hlm", query, key)
    weights = jax.nn.softmax(logits if bias is None else logits + bias)
    return jnp.einsum("...hlm,...mhd->...lhd", weights, value)


def _run(attend):
    def loss(*inputs):
        out = attend(*inputs)
        return jnp.square(out).sum(), out

    arguments = (0, 1, 2, 3)
    return jax.jit(jax.value_and_grad(loss, arguments, has_aux=True))


def _assert_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        actual,
        expected,
    )


@pytest.mark.parametrize("batch", [(3,), (2, 4), ()], ids=str)
@pytest.mark.parametrize(
    "bias", [None, (1, 1, 4), (2, 5, 4), (2, 1, 4)], ids=str
)
def test_attention_and_its_gradients_match_the_definition(batch, bias):
    # Fewer keys than queries, and values of a different width.
    inputs = (
        _random(*batch, 5, 2, 3),
        _random(*batch, 4, 2, 3, seed=1),
        _random(*batch, 4, 2, 6, seed=2),
        # A bias of one head or one image applies to all.
        None if bias is None else _random(*[1] * len(batch), *bias, seed=3),
    )
    _assert_close(_run(attention.attend)(*inputs), _run(_plain)(*inputs))


def test_all_heads_at_once_match_one_by_one():
    """Accelerators and CPUs compute the same results and gradients."""
    query, key, value = (_random(3, 5, 2, 4, seed=seed) for seed in range(3))
    inputs = query, key, value, _random(3, 1, 1, 5, seed=3), None
    gradient = _random(3, 5, 2, 4, seed=4)
    for one_by_one, at_once, given in (
        (attention._by_head, attention._at_once, inputs),
        (
            attention._by_head_backward,
            attention._at_once_backward,
            (*inputs, gradient),
        ),
    ):
        _assert_close(one_by_one(0.0, *given), at_once(0.0, *given))


@pytest.mark.parametrize("form", ["_by_head", "_at_once"])
def test_dropout_drops_its_share_and_keeps_the_mean(form):
    attend = functools.partial(getattr(attention, form), 0.25)
    # Equal keys give all values equal weights, and the values are unit
    # vectors, so the result is the weights.
    length = 64
    query, key = np.ones((2, 4, length, 3, 5), np.float32)
    value = np.broadcast_to(np.eye(length)[:, None], (4, length, 3, length))
    rng = jax.random.key(0)
    weights = attend(query, key, value.astype(np.float32), None, rng) * length
    dropped = np.asarray(weights == 0)
    np.testing.assert_allclose(dropped.mean(), 0.25, atol=0.01)
    np.testing.assert_allclose(weights[~dropped], 4 / 3, rtol=1e-5)
    # No two heads and no two images drop the same weights.
    masks = dropped.transpose(0, 2, 1, 3).reshape(12, -1)
    assert len(np.unique(masks, axis=0)) == 12


def test_both_passes_drop_the_same_weights():
    query, key, value = (_random(2, 6, 2, 3, seed=seed) for seed in range(3))
    rng = jax.random.key(0)

    def run(value):
        return attention.attend(query, key, value, None, 0.5, rng)

    # The result is linear in the values, so its Jacobian is the weights.
    jacobian = jax.jacrev(run)(value)
    np.testing.assert_allclose(
        jnp.tensordot(jacobian, value, 4), run(value), rtol=1e-5, atol=1e-5
    )


def test_dropping_all_weights_gives_zeros():
    query, key, value = (_random(2, 6, 2, 3, seed=seed) for seed in range(3))

    def run(query):
        rng = jax.random.key(0)
        return attention.attend(query, key, value, None, 1.0, rng).sum()

    for actual in jax.value_and_grad(run)(query):
        np.testing.assert_array_equal(actual, np.zeros_like(actual))


def test_no_attention_weights_are_saved():
    def loss(query, key, value):
        return attention.attend(query, key, value).sum()

    # With 64 tokens and one number per head, the weights would be 64 times as
    # large as an input.
    shape = jax.ShapeDtypeStruct((4, 64, 2, 1), jnp.float32)
    kept = jax.eval_shape(lambda *x: jax.vjp(loss, *x)[1], shape, shape, shape)
    assert 0 < sum(x.size for x in jax.tree.leaves(kept)) <= 4 * 4 * 64 * 2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_sharded_batch_matches_unsharded(num_devices, dropout):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    given = [_random(8, 5, 2, 3, seed=seed) for seed in range(3)]
    given.append(_random(8, 1, 1, 5, seed=3))
    rng = jax.random.key(0) if dropout else None
    run = _run(lambda *x: attention.attend(*x, dropout, rng))
    split = [mesh_lib.put_batch(x, mesh) for x in given]
    _assert_close(run(*split), run(*given))
    # No device needs another device's rows.
    assert "all-gather" not in run.lower(*split).compile().as_text()
