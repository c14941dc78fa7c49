import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.bert import CONFIGS, Bert, BertConfig

TINY = BertConfig(
    width=16, layers=2, heads=2, hidden=32, vocabulary=50, positions=12
)


@pytest.fixture
def texts():
    tokens = np.random.default_rng(0).integers(1, 50, (3, 8), np.int32)
    mask = np.arange(8)[None] < np.array([[8], [5], [0]])
    return tokens, mask


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bert-base", 108_891_648), ("minilm", 22_565_376)],
)
def test_size_of_the_published_model(name, parameters):
    tokens = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(
        Bert(CONFIGS[name]).init, jax.random.key(0), tokens, tokens > 0
    )
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(leaf.size for leaf in leaves) == parameters


def test_padding_does_not_influence_tokens(texts):
    tokens, mask = texts
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, mask)
    changed = np.where(mask, tokens, 49)
    before = model.apply(variables, tokens, mask)
    after = model.apply(variables, changed, mask)
    np.testing.assert_array_equal(before[mask], after[mask])
    assert np.abs(before - after)[~mask].max() > 1e-3
    shorter = model.apply(variables, tokens[1:2, :5], mask[1:2, :5])
    np.testing.assert_allclose(before[1, :5], shorter[0], atol=1e-5)


def test_text_without_tokens_is_finite(texts):
    tokens, mask = texts
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), tokens, mask)
    gradients = jax.grad(
        lambda v: jnp.square(model.apply(v, tokens, mask)).sum()
    )(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_dropout_only_while_training(texts):
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), *texts)

    def apply(seed, train):
        key = jax.random.key(seed)
        return model.apply(variables, *texts, train, rngs={"dropout": key})

    np.testing.assert_array_equal(apply(0, False), apply(1, False))
    assert np.abs(apply(0, True) - apply(1, True)).max() > 1e-2


def test_bfloat16_is_near_float32(texts):
    model = Bert(TINY)
    variables = jax.jit(model.init)(jax.random.key(0), *texts)
    exact = model.apply(variables, *texts)
    half = model.clone(dtype=jnp.bfloat16).apply(variables, *texts)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half, exact, atol=0.1)
