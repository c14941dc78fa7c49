import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.models.encoders import resnet
from mixer_jax.runtime.errors import UserError
from tests.models import parity
from tests.models.parity import torch


def random_images(*size):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (4, *size, 3), np.uint8)


class ResNetTests(parity.EncoderTests):
    module = resnet.ResNet
    keys = resnet.KEYS
    from_original = staticmethod(resnet.from_original)
    to_original = staticmethod(resnet.to_original)
    # At 32 pixels, no ReLU input is so close to 0 that rounding could change
    # its sign, and with it a gradient.
    inputs = ((random_images(32, 32),), (random_images(50, 75),))

    @classmethod
    def original(cls, config):
        model = super().original(config)
        torch.manual_seed(1)
        for name, average in model.named_buffers():
            if name.endswith("running_mean"):
                average += torch.randn_like(average)
            elif name.endswith("running_var"):
                average += torch.rand_like(average)
        return model

    def call_original(self, model, images):
        mean, std = map(np.float32, (self.config.mean, self.config.std))
        pixels = ((images - mean) / std).transpose(0, 3, 1, 2)
        output_BxCxHxW = model(torch.from_numpy(pixels)).last_hidden_state
        return output_BxCxHxW.flatten(2).transpose(1, 2)

    @pytest.mark.parametrize(
        ("batch_norm", "remat"),
        [("train", False), ("train", True), ("frozen", False)],
    )
    def test_gradients_match_the_original(self, example, batch_norm, remat):
        (images,) = self.inputs[0]
        original = copy.deepcopy(example.model).train(batch_norm == "train")
        theirs = self.call_original(original, images)
        rng = np.random.default_rng(2)
        weights = rng.normal(size=theirs.shape).astype(np.float32)
        (theirs * torch.from_numpy(weights)).sum().backward()
        model = self.module(self.config, batch_norm, remat=remat)

        @jax.jit
        def loss(params):
            variables = {**example.variables, "params": params}
            patches, _ = model.apply(
                variables, images, train=True, mutable=["batch_stats"]
            )
            return (patches * weights).sum(), patches

        gradients, patches = jax.grad(loss, has_aux=True)(
            example.variables["params"]
        )
        assert parity.difference(patches, theirs.detach().numpy()) < 2e-5
        gradients = self.keys.store({"params": gradients})
        for name, parameter in original.named_parameters():
            theirs = parameter.grad.numpy()
            assert parity.difference(gradients.pop(name), theirs) < 1e-4, name
        assert not gradients

    @pytest.mark.parametrize("average", ["running_mean", "running_var"])
    def test_running_averages_match_the_original(self, example, average):
        (images,) = self.inputs[0]
        original = copy.deepcopy(example.model).train()
        with torch.no_grad():
            self.call_original(original, images)

        @jax.jit
        def update(variables):
            model = self.module(self.config)
            return model.apply(variables, images, True, mutable="batch_stats")

        averages = self.keys.store(update(example.variables)[1])
        for name, theirs in original.named_buffers():
            if name.endswith(average):
                assert parity.difference(averages[name], theirs.numpy()) < 2e-5

    def test_frozen_norms_use_running_statistics_in_training(self, example):
        model = self.module(self.config, "frozen")

        @jax.jit
        def both(variables, images):
            train = model.apply(variables, images, True, mutable="batch_stats")
            return train, model.apply(variables, images)

        (patches, updates), evaluated = both(example.variables, *self.inputs[0])
        np.testing.assert_array_equal(patches, evaluated)
        jax.tree.map(
            np.testing.assert_array_equal,
            updates["batch_stats"],
            example.variables["batch_stats"],
        )

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("hidden_act", "gelu"),
            ("downsample_in_bottleneck", True),
            ("layer_type", "wide"),
        ],
    )
    def test_unsupported_values_raise_an_error(self, key, value):
        config = resnet.to_original(self.config) | {key: value}
        with pytest.raises(UserError, match=re.escape(f"{key} = {value!r}")):
            resnet.from_original(config)


class TestBasic(ResNetTests):
    config = resnet.ResNetConfig((1, 2), (8, 16), stem=8, bottleneck=False)


class TestBottleneck(ResNetTests):
    config = resnet.ResNetConfig((1, 1), (16, 32), stem=8)


@pytest.mark.parametrize(
    ("name", "parameters", "channels"),
    [
        ("resnet18", 11_176_512, 512),
        ("resnet34", 21_284_672, 512),
        ("resnet50", 23_508_032, 2048),
        ("resnet101", 42_500_160, 2048),
    ],
)
def test_size_of_the_published_model(name, parameters, channels):
    config = resnet.to_original(resnet.CONFIGS[name])
    assert resnet.from_original(config) == resnet.CONFIGS[name]
    assert parity.count_original(config) == parameters
    model = resnet.ResNet(resnet.CONFIGS[name])
    patches, variables = jax.eval_shape(
        lambda x: model.init_with_output(parity.KEY, x),
        jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8),
    )
    assert patches.shape == (2, 49, channels)
    assert parity.count(variables["params"]) == parameters
