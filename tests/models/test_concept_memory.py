import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.concept_memory import NORMS, ConceptMemory


@pytest.fixture
def tokens():
    return np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)


MASK = np.arange(5)[None] < np.array([[5], [2], [0]])


def _softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


@pytest.mark.parametrize("norm", NORMS)
def test_matches_its_equations_on_real_tokens(tokens, norm):
    memory = ConceptMemory(slots=6, dim=3, norm=norm)
    variables = memory.init(jax.random.key(0), tokens, MASK)
    concept, attention = memory.apply(variables, tokens, MASK)
    keys = np.asarray(variables["params"]["keys"]["kernel"])
    values = np.asarray(variables["params"]["values"]["kernel"])
    past = np.asarray(variables["params"]["tokens"]["kernel"])
    for row, length in enumerate((5, 2)):
        logits = tokens[row, :length] @ keys
        if norm == "double":
            expected = _softmax(logits, 0)
            expected /= expected.sum(1, keepdims=True)
        else:
            expected = _softmax(logits, 1)
        np.testing.assert_allclose(attention[row, :length], expected, rtol=1e-4)
        np.testing.assert_array_equal(attention[row, length:], 0)
        np.testing.assert_allclose(
            concept[row],
            (expected @ values + tokens[row, :length] @ past).mean(0),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("norm", NORMS)
def test_text_without_tokens_gives_zeros_and_finite_gradients(tokens, norm):
    memory = ConceptMemory(slots=6, dim=3, norm=norm)
    variables = memory.init(jax.random.key(0), tokens, MASK)

    def loss(variables, tokens):
        concept, attention = memory.apply(variables, tokens, MASK)
        return jnp.square(concept).sum() + attention.max(), concept

    (by_variables, by_tokens), concept = jax.grad(loss, (0, 1), has_aux=True)(
        variables, tokens
    )
    np.testing.assert_array_equal(concept[2], 0)
    np.testing.assert_array_equal(by_tokens[~MASK], 0)
    for leaf in jax.tree.leaves((by_variables, by_tokens)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0
