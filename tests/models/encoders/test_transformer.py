"""Shared code; the tests of the families compare with the originals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.encoders import transformer
from mixer_jax.runtime.errors import UserError

SIZES = {"width": 8, "layers": 1, "heads": 2, "hidden": 16}


def test_sizes_round_trip():
    config = transformer.ImageConfig(**SIZES, patch=4, image_size=12)
    written = transformer.to_original(config, "vit", "ViTModel")
    assert written["model_type"] == "vit"
    assert written["architectures"] == ["ViTModel"]
    assert transformer.from_original(transformer.ImageConfig, written) == config


def test_patch_size_may_have_two_equal_sides():
    found = transformer.from_original(
        transformer.ImageConfig, {"patch_size": [14, 14]}
    )
    assert found.patch == 14


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_act": "swish"}, "hidden_act = 'swish'.*gelu"),
        ({"patch_size": [16, 8]}, r"patch_size = \[16, 8\].*squares"),
        ({"num_channels": 1}, "num_channels = 1.*3"),
    ],
)
def test_unsupported_values_raise_an_error(given, message):
    with pytest.raises(UserError, match=message):
        transformer.from_original(
            transformer.ImageConfig, given, num_channels=3
        )


def test_bias_hides_tokens():
    layer = transformer.Layer(transformer.ImageConfig(**SIZES))
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    hidden = np.zeros((1, 1, 1, 5), np.float32)
    hidden[..., 3:] = -1e9
    variables = layer.init(jax.random.key(0), x)
    changed = jnp.asarray(x).at[:, 3:].add(1)
    seen = layer.apply(variables, x, hidden)[:, :3]
    np.testing.assert_allclose(
        layer.apply(variables, changed, hidden)[:, :3], seen, atol=1e-6
    )
    without = layer.apply(variables, changed)[:, :3]
    assert np.abs(without - seen).max() > 1e-4
