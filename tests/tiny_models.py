"""Towers of the usual structure, with tiny encoders and random weights."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer_jax.models import factory
from mixer_jax.models.encoders import bert, registry
from mixer_jax.training.checkpoint import checkpoints
from mixer_jax.training.config import defaults


class Quarters(nn.Module):
    """An image encoder whose four patches are the quadrants' mean colors."""

    batch_norm: str = "frozen"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        x = images.astype(jnp.float32) / 255 - 0.5
        batch, size = x.shape[:2]
        x = x.reshape(batch, 2, size // 2, 2, size // 2, 3).mean((2, 4))
        return nn.Dense(8, dtype=self.dtype)(x.reshape(batch, 4, 3))


def make(set_item):
    """Returns the model, as if loaded from a workdir.

    Adds the encoders "tiny" to the registry with `set_item`, for example
    `monkeypatch.setitem`.
    """
    add_encoders(set_item)
    config = defaults.defaults()
    config.precision = "float32"
    config.data.image_size = 8
    config.data.text_length = 8
    config.model.image.name = config.model.text.name = "tiny"
    config.model.dim = 8
    config.evaluate.batch_size = 8
    model = factory.make_model(config.model)
    init = functools.partial(factory.init_variables, model, config)
    variables = jax.jit(init)(jax.random.key(0))
    return checkpoints.Trained(config, model, variables, [], 1)


def add_encoders(set_item):
    """Adds an image encoder and a text encoder named "tiny"; see `make`."""
    sizes = bert.BertConfig(width=8, layers=1, heads=2, hidden=16)
    text = functools.partial(bert.Bert, sizes)
    set_item(registry.IMAGE_ENCODERS, "tiny", Quarters)
    set_item(registry.TEXT_ENCODERS, "tiny", text)
