import copy
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.encoders import swin
from mixer_jax.runtime.errors import UserError
from tests.models import parity
from tests.models.parity import torch

TINY = swin.SwinConfig(
    width=8, blocks=(2, 2), heads=(2, 4), patch=2, window=3, mlp_ratio=2.0
)


def random_images(batch, *size):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (batch, *size, 3), np.uint8)


class TestSwin(parity.EncoderTests):
    module = swin.Swin
    config = TINY
    keys = swin.KEYS
    from_original = staticmethod(swin.from_original)
    to_original = staticmethod(swin.to_original)
    # Maps of 14x11 and 7x6 patches, where patches, windows and merges are
    # padded and both stages shift their windows; and of 6x6 and 3x3 patches,
    # which need no padding and form a single window in the second stage.
    inputs = ((random_images(2, 27, 22),), (random_images(2, 12, 12),))

    def call_original(self, model, images):
        mean, std = map(np.float32, (TINY.mean, TINY.std))
        pixels = ((images - mean) / std).transpose(0, 3, 1, 2)
        # Calling an original on a small map permanently changes its windows.
        fresh = copy.deepcopy(model)
        return torch.func.functional_call(
            fresh, dict(model.named_parameters()), torch.from_numpy(pixels)
        ).last_hidden_state

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("hidden_act", "relu"),
            ("use_absolute_embeddings", True),
            ("patch_size", [4, 4]),
        ],
    )
    def test_unsupported_values_raise_an_error(self, key, value):
        pattern = re.escape(f"{key} = {value!r}")
        with pytest.raises(UserError, match=pattern):
            swin.from_original(swin.to_original(TINY) | {key: value})

    def test_stochastic_depth_matches_the_original(self, example):
        images = random_images(12, 27, 22)
        model = swin.Swin(TINY, drop_path=0.75)
        patches = jax.jit(model.apply, static_argnums=2)(
            example.variables, images, True, rngs={"dropout": parity.KEY}
        )

        class Fixed(torch.nn.Module):
            """Multiplies by a fixed factor instead of dropping at random."""

            def __init__(self, factor):
                super().__init__()
                self.factor = float(factor)

            def forward(self, x):
                return x * self.factor

        def run(kept):
            fixed = copy.deepcopy(example.model)
            blocks = [b for s in fixed.encoder.layers for b in s.blocks]
            rates = (0, 0.25, 0.5, 0.75)
            for block, rate, keep in zip(blocks, rates, kept, strict=True):
                block.drop_path = Fixed(keep / (1 - rate))
            return self.call_original(fixed, images).numpy()

        with torch.no_grad():
            outcomes = [
                run((1, *np.unravel_index(i, (2,) * 3))) for i in range(8)
            ]
        distance = np.abs(outcomes - np.asarray(patches)[None]).max((2, 3))
        assert distance.min(0).max() < 2e-5 * np.abs(outcomes).max()
        assert len(set(distance.argmin(0))) > 3

    def test_map_smaller_than_a_window(self, example):
        """The map is one window, which uses only part of the bias table."""
        images = random_images(2, 4, 4)

        def crop(path, leaf):
            if path[-1].key != "relative_position_bias_table":
                return leaf
            return leaf.reshape(5, 5, -1)[1:4, 1:4].reshape(9, -1)

        cropped = jax.tree_util.tree_map_with_path(crop, example.variables)
        small = dataclasses.replace(TINY, window=2)
        np.testing.assert_array_equal(
            jax.jit(swin.Swin(TINY).apply)(example.variables, images),
            jax.jit(swin.Swin(small).apply)(cropped, images),
        )


@pytest.mark.parametrize(
    ("name", "parameters", "channels"),
    [
        ("swin-t", 27_519_354, 768),
        ("swin-s", 48_837_258, 768),
        ("swin-b", 86_743_224, 1024),
    ],
)
def test_size_of_the_published_model(name, parameters, channels):
    config = swin.to_original(swin.CONFIGS[name])
    assert swin.from_original(config) == swin.CONFIGS[name]
    assert parity.count_original(config) == parameters
    model = swin.Swin(swin.CONFIGS[name])
    patches, variables = jax.eval_shape(
        lambda x: model.init_with_output(parity.KEY, x),
        jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8),
    )
    assert patches.shape == (2, 49, channels)
    assert parity.count(variables) == parameters
