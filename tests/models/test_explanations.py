"""Explanations of the embeddings of documents, with tiny random towers."""

import dataclasses

import jax
import numpy as np
import pytest

from mixer_jax.models import explanations
from mixer_jax.models.fusion import FUSIONS
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh

TEXT = "a red \N{GRINNING FACE} shoelace"
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture
def model(tiny_towers):
    return Model(tiny_towers)


def _concept(trained, model):
    """Returns token vectors, concept vector and kernels of the text."""
    towers = trained.model.bind(trained.variables)
    tokens, mask = model._tokenizer([TEXT])
    vectors = towers.encode_texts(tokens, mask)
    concept, attention = towers.concept_memory(vectors, mask)
    count = mask.sum()
    parts = (vectors[0, :count], attention[0, :count], concept[0])
    return (*map(np.asarray, parts), towers)


def test_attention_is_that_of_the_fusion(tiny_towers, num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    model = Model(tiny_towers, mesh)
    found = model.explain(PICTURE, TEXT)
    *_, concept, towers = _concept(tiny_towers, model)
    patches = np.asarray(towers.encode_images(PICTURE[None]))[0]
    fusion = tiny_towers.variables["params"]["fusion"]
    query, key = (np.asarray(fusion[n]["kernel"]) for n in ("query", "key"))
    logits = (patches @ key) @ (concept @ query) / np.sqrt(8)
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(
        found.attention, expected.reshape(2, 2), rtol=1e-4
    )
    assert np.ptp(expected) > 1e-3  # else the order would not matter
    assert (found.cls, found.reason) == (0, "")
    embedding = model.embed_documents([PICTURE], [TEXT])[0]
    np.testing.assert_allclose(found.embedding, embedding, atol=1e-6)


def test_shares_are_those_of_the_terms_of_the_concept_vector(
    tiny_towers, model
):
    found = model.explain(PICTURE, TEXT)
    vectors, attention, concept, _ = _concept(tiny_towers, model)
    memory = tiny_towers.variables["params"]["concept_memory"]
    values, past = (
        np.asarray(memory[n]["kernel"]) for n in ("values", "tokens")
    )
    terms = (attention @ values + vectors @ past) / len(vectors)
    np.testing.assert_allclose(terms.sum(0), concept, rtol=1e-4, atol=1e-5)
    shares = [token.share for token in found.tokens]
    np.testing.assert_allclose(
        shares, terms @ concept / (concept @ concept), rtol=1e-3, atol=1e-5
    )
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert [TEXT[t.start : t.end] for t in found.tokens] == (
        ["", "a", "red", "\N{GRINNING FACE}", "shoe", "lace", ""]
    )
    assert found.tokens[0].token == "[CLS]"


def test_documents_without_a_picture_or_a_text_have_no_attention(model):
    found = model.explain(None, TEXT)
    assert found.attention is None
    assert found.reason == "there is no picture"
    assert found.tokens == model.explain(PICTURE, TEXT).tokens
    found = model.explain(PICTURE, " ")
    assert (found.attention, found.tokens) == (None, ())
    assert "no text" in found.reason
    np.testing.assert_allclose(
        found.embedding, model.embed_documents([PICTURE])[0], atol=1e-6
    )


def test_the_vector_of_the_whole_picture_is_no_cell():
    weights = np.array([0.4, 0.1, 0.2, 0.3, 0.0], np.float32)
    grid, cls = explanations._grid(weights)
    np.testing.assert_array_equal(grid, weights[1:].reshape(2, 2))
    assert cls == pytest.approx(0.4)


def test_models_without_attention_say_so(tiny_towers):
    has, params = np.ones(1, bool), tiny_towers.variables["params"]
    made = FUSIONS["average"](8).init(
        jax.random.key(0), np.ones((1, 4, 8)), np.ones((1, 8)), has, has
    )
    trained = dataclasses.replace(
        tiny_towers,
        model=tiny_towers.model.clone(fusion_name="average"),
        variables={"params": params | {"fusion": made["params"]}},
    )
    trained.config.model.fusion = "average"
    found = Model(trained).explain(PICTURE, TEXT)
    assert (
        found.reason == "the model's fusion, 'average', computes no attention"
    )
    assert found.attention is None
    assert sum(t.share for t in found.tokens) == pytest.approx(1, abs=1e-5)


def test_models_that_ignore_texts_are_not_explained(tiny_towers):
    model = Model(tiny_towers, ignores_text="it does not use text")
    with pytest.raises(UserError, match="explained: it does not use text"):
        model.explain(PICTURE, TEXT)
