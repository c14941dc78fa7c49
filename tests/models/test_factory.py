import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models import factory
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config.defaults import defaults


@pytest.fixture
def config():
    config = defaults()
    config.data.image_size = 64
    config.data.text_length = 8
    return config


def _shapes(config):
    model = factory.make_model(config.model, jnp.bfloat16)
    init = functools.partial(factory.init_variables, model, config)
    return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize(
    ("fusion", "reads_text"),
    [("concept_attention", True), ("image_only", False)],
)
def test_model_has_the_expected_parts(config, fusion, reads_text):
    config.model.fusion = fusion
    variables = _shapes(config)
    parts = {"image_encoder", "query_layers", "document_layers", "fusion"}
    if reads_text:
        parts |= {"text_encoder", "concept_memory"}
    assert set(variables["params"]) == parts
    assert set(variables["batch_stats"]) == {"image_encoder"}
    leaves = jax.tree.leaves(variables)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_pretrained_weights_replace_the_encoders(config):
    config.model.image.name = "efficientnet-lite0"
    config.model.image.pretrained = "efficientnet-lite0"
    config.model.text.name = "minilm"
    config.model.text.pretrained = "minilm"
    model = factory.make_model(config.model)
    init = functools.partial(factory.init_variables, model, config)
    variables = jax.jit(init)(jax.random.key(0))
    encoders = ("image_encoder", "text_encoder")
    for name in encoders:
        for leaf in jax.tree.leaves(variables["params"][name]):
            np.testing.assert_array_equal(leaf, 0)
    loaded = factory.load_pretrained(variables, config.model)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    stats = loaded["batch_stats"]["image_encoder"]
    for tree in (*(loaded["params"][name] for name in encoders), stats):
        for leaf in jax.tree.leaves(tree):
            assert np.abs(leaf).max() > 0
    # Nothing else changes, and the given tree is not modified.
    for name in set(variables["params"]) - set(encoders):
        jax.tree.map(
            np.testing.assert_array_equal,
            loaded["params"][name],
            variables["params"][name],
        )
    for leaf in jax.tree.leaves(variables["params"]["image_encoder"]):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "image.name",
            "resnet5",
            "no image encoder.*mean 'resnet50'.*Known: .*vit",
        ),
        ("text.name", "xy", "no text encoder.*Known: .*minilm"),
        ("text.name", "bert", "no text encoder.*did you mean 'bert-base"),
        (
            "fusion",
            "concept",
            "no fusion.*did you mean 'concat'.*concept_attention",
        ),
        ("memory_norm", "dbl", "no memory_norm.*did you mean 'double'"),
        (
            "image.batch_norm",
            "froze",
            "no batch_norm mode.*did you mean 'frozen'",
        ),
        ("image.chunk", 8, "is 8, but batch statistics of resnet.*=frozen or"),
        ("image.hypercolumns", True, "not available for .*resnet.*False, or"),
    ],
)
def test_invalid_values_are_refused_with_valid_ones(
    config, key, value, message
):
    config.model.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        factory.make_model(config.model)
