"""Tests of an encoder against its original in transformers.

A test file derives a class from `ImageTests` or `TextTests` that defines the
encoder and its original.
"""

import json
import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mixer_jax.runtime.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

KEY = jax.random.key(0)
# The default token IDs exceed a small vocabulary.
_NO_TOKENS = {"bos_token_id": 0, "eos_token_id": 0}


def random_weights(shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


# With the XLA flag of tests/conftest.py, remat changes the rounding.
_OPTIONS = {}
if jax.__version_info__ < (0, 11):
    _OPTIONS["xla_cpu_use_fusion_emitters"] = True


@partial(jax.jit, static_argnums=0, compiler_options=_OPTIONS)
def run(module, variables, inputs, valid):
    """Returns the outputs, and the gradients of a weighted sum of them.

    The weights are random, and 0 where `valid` is False.
    """

    def loss(variables):
        output = module.apply(variables, *inputs)
        weights = random_weights(output.shape) * valid
        return (output * weights).sum(), output

    gradients, output = jax.grad(loss, has_aux=True)(variables)
    return output, gradients


class Original(NamedTuple):
    """A random original, its files, and our variables read from them."""

    model: Any
    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    variables: dict[str, Any]


def randomize(model):
    """Adds noise to every parameter, so that none is 0 or 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter)
            parameter += torch.nn.init.normal_(noise, std=0.1)
    return model.eval()


def read(folder):
    """Returns the tensors and the config of a folder."""
    config = json.loads((folder / "config.json").read_text())
    return load_file(folder / "model.safetensors"), config


def shapes(module, inputs):
    return jax.eval_shape(module.init, KEY, *inputs)


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def count_images(module):
    return count(shapes(module, [np.zeros((1, 32, 32, 3), np.uint8)]))


def count_texts(module):
    tokens = np.zeros((1, 4), np.int32)
    return count(shapes(module, [tokens, tokens == 0]))


def count_original(config):
    """Counts the parameters of a config.json's model without allocating it."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_original(config).parameters())


def make_original(config):
    kind = getattr(transformers, config["architectures"][0])
    return kind(transformers.AutoConfig.for_model(**config))


def difference(ours, theirs):
    """Returns the maximum error, relative to the maximum of `theirs`."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


class EncoderTests:
    """Tests of every encoder.

    Attributes:
      module: the encoder's class.
      config: our config of a tiny encoder.
      keys: the encoder's key map.
      from_original: config.json -> our config.
      to_original: our config -> config.json.
      inputs: the arguments of several calls, of different sizes.
    """

    module: Any
    config: Any
    keys: Any
    from_original: Any
    to_original: Any
    inputs: tuple[tuple[np.ndarray, ...], ...]

    @classmethod
    def original(cls, config):
        """Returns a transformers model."""
        return make_original(config)

    def call_original(self, model, *inputs):
        """Returns the original's last hidden state for our inputs."""
        raise NotImplementedError

    def valid(self, *inputs):
        """Returns a mask of the meaningful outputs."""
        return np.ones((1, 1, 1), bool)

    @pytest.fixture(scope="class")
    @classmethod
    def example(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("original")
        model = randomize(cls.original(cls.to_original(cls.config)))
        model.save_pretrained(folder)
        tensors, config = read(folder)
        variables = cls.keys.load(
            tensors, shapes(cls.module(cls.config), cls.inputs[0]), "tiny"
        )
        return Original(model, tensors, config, variables)

    def run(self, example, *inputs, **options):
        module = self.module(self.config, **options)
        return run(module, example.variables, inputs, self.valid(*inputs))

    def original_gradients(self, model, inputs, folder):
        """Returns the gradients of the sum in `run`, by tensor name."""
        output = self.call_original(model, *inputs)
        weights = random_weights(output.shape) * self.valid(*inputs)
        (output * torch.from_numpy(weights)).sum().backward()
        kept = {name: p.data for name, p in model.named_parameters()}
        for parameter in model.parameters():
            # A head does not affect the output, so it has no gradient.
            if parameter.grad is not None:
                parameter.data = parameter.grad
        model.save_pretrained(folder)
        for name, parameter in model.named_parameters():
            parameter.data, parameter.grad = kept[name], None
        return read(folder)[0]

    def test_outputs_match_the_original(self, example):
        for inputs in self.inputs:
            ours = np.asarray(self.run(example, *inputs)[0])
            with torch.no_grad():
                theirs = self.call_original(example.model, *inputs).numpy()
            valid = self.valid(*inputs)
            assert difference(ours * valid, theirs * valid) < 2e-5

    def test_gradients_match_the_original(self, example, tmp_path):
        for index, inputs in enumerate(self.inputs):
            ours = self.keys.store(self.run(example, *inputs)[1])
            theirs = self.original_gradients(
                example.model, inputs, tmp_path / str(index)
            )
            for name, gradient in ours.items():
                if "key.bias" in name or "k_proj.bias" in name:
                    # This shift of all logits has no effect on the softmax.
                    scale = np.abs(theirs[name.replace("bias", "weight")]).max()
                    assert np.abs(gradient).max() < 1e-5 * scale
                else:
                    assert difference(gradient, theirs[name]) < 1e-4, name

    def test_tensors_round_trip(self, example):
        stored = self.keys.store(example.variables)
        for name, tensor in stored.items():
            assert tensor.dtype == np.float32
            np.testing.assert_array_equal(tensor, example.tensors[name])

    def test_configs_round_trip(self, example):
        assert self.from_original(example.config) == self.config
        written = self.to_original(self.config)
        assert self.from_original(written) == self.config

    def test_transformers_loads_stored_weights(self, example, tmp_path):
        config = self.to_original(self.config)
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(
            self.keys.store(example.variables),
            tmp_path / "model.safetensors",
            metadata={"format": "pt"},
        )
        kind = getattr(transformers, config["architectures"][0])
        loaded = kind.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            ours, theirs = (
                self.call_original(model, *self.inputs[0]).numpy()
                for model in (loaded, example.model)
            )
        np.testing.assert_array_equal(ours, theirs)

    def test_remat_changes_nothing(self, example):
        inputs = self.inputs[0]
        output, gradients = self.run(example, *inputs)
        output_again, gradients_again = self.run(example, *inputs, remat=True)
        np.testing.assert_allclose(output_again, output, atol=1e-6)
        largest = max(np.abs(x).max() for x in jax.tree.leaves(gradients))
        for x, y in zip(
            jax.tree.leaves(gradients_again),
            jax.tree.leaves(gradients),
            strict=True,
        ):
            np.testing.assert_allclose(x, y, atol=1e-6 * largest)

    def test_bfloat16_is_near_float32(self, example):
        inputs = self.inputs[0]
        module = self.module(self.config, dtype=jnp.bfloat16)
        half = jax.jit(module.apply)(example.variables, *inputs)
        assert half.dtype == jnp.bfloat16
        exact = np.asarray(self.run(example, *inputs)[0])
        assert difference(np.asarray(half, np.float32), exact) < 0.05


def check_combined_file(config, folder, **towers):
    """Asserts that each tower finds its weights in a file of two towers.

    Args:
      config: the config.json of both.
      folder: the folder to save the model in.
      **towers: the tests of `vision` and `text`.
    """
    for tower in towers:
        config[f"{tower}_config"] |= _NO_TOKENS
    make_original(config).save_pretrained(folder)
    tensors, written = read(folder)
    for tower in towers:
        # Files of earlier versions have these tensors.
        tensors[f"{tower}_model.embeddings.position_ids"] = np.arange(9)
    for tower, tests in towers.items():
        assert tests.from_original(written) == tests.config
        wanted = shapes(tests.module(tests.config), tests.inputs[0])
        loaded = tests.keys.load(tensors, wanted, "both towers")
        for name, tensor in tests.keys.store(loaded).items():
            whole = tensors[f"{tower}_model.{name}"]
            np.testing.assert_array_equal(tensor, whole)


class ImageTests(EncoderTests):
    """Tests of an encoder that interpolates its position embeddings.

    Its config has 4 patches of 4 pixels on each side.
    """

    inputs = tuple(
        (np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8),)
        for size in ((16, 16), (29, 8))
    )

    def call_original(self, model, images):
        mean, std = map(np.float32, (self.config.mean, self.config.std))
        pixels = ((images - mean) / std).transpose(0, 3, 1, 2)
        return model(
            torch.from_numpy(pixels), interpolate_pos_encoding=True
        ).last_hidden_state

    def test_unsupported_values_raise_an_error(self):
        config = self.to_original(self.config)
        for key, value in (
            ("hidden_act", "swish"),
            ("num_channels", 1),
            ("image_size", [16, 8]),
        ):
            pattern = re.escape(f"{key} = {value!r}")
            with pytest.raises(UserError, match=pattern):
                self.from_original(config | {key: value})

    def test_images_smaller_than_a_patch_are_refused(self):
        images = np.zeros((1, 16, 3, 3), np.uint8)
        with pytest.raises(UserError, match="16 x 3 pixels are smaller"):
            shapes(self.module(self.config), [images])


class TextTests(EncoderTests):
    """Tests of a text encoder with 50 words."""

    tokens = np.random.default_rng(0).integers(0, 50, (3, 9), np.int32)
    mask = np.arange(9)[None] < np.array([[9], [5], [1]])
    inputs = ((tokens, mask), (tokens[:, :5], mask[:, :5]))

    @classmethod
    def original(cls, config):
        return super().original(config | _NO_TOKENS)

    def call_original(self, model, tokens, mask):
        return model(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=torch.from_numpy(mask).long(),
        ).last_hidden_state

    def valid(self, tokens, mask):
        return mask[..., None]

    def test_padding_does_not_influence_tokens(self, example):
        tokens, mask = self.inputs[0]
        before, _ = self.run(example, tokens, mask)
        after, _ = self.run(example, np.where(mask, tokens, 49), mask)
        np.testing.assert_array_equal(before[mask], after[mask])

    def test_text_without_tokens_is_finite(self, example):
        tokens, mask = self.inputs[0]
        results = run(
            self.module(self.config),
            example.variables,
            (tokens, np.zeros_like(mask)),
            self.valid(tokens, np.ones_like(mask)),
        )
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))

    def test_unsupported_values_raise_an_error(self):
        config = self.to_original(self.config)
        with pytest.raises(UserError, match="hidden_act = 'swish'"):
            self.from_original(config | {"hidden_act": "swish"})
