"""Names and configs -> models and their first variables."""

import difflib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.errors import UserError
from mixer_jax.models import pretrained
from mixer_jax.models.bert import CONFIGS, Bert
from mixer_jax.models.efficientnet import EfficientNetLite0

IMAGE_ENCODERS = {"efficientnet-lite0": EfficientNetLite0}


def choose(table: Mapping, name: str, what: str):
    """Returns `table[name]`, or raises a UserError with the near names."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, cutoff=0.3) or table
    raise UserError(
        f"There is no {what} named {name!r}; known: {', '.join(near)}."
    )


def pretrained_image_encoder(name: str, size: int) -> tuple[nn.Module, dict]:
    """Returns the frozen encoder and its variables with loaded weights."""
    model = choose(IMAGE_ENCODERS, name, "image encoder")(batch_norm="frozen")
    images = jnp.zeros((1, size, size, 3), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return model, pretrained.load(name, shapes)


def pretrained_text_encoder(name: str) -> tuple[nn.Module, dict]:
    """Returns the frozen encoder and its variables with loaded weights."""
    model = Bert(choose(CONFIGS, name, "text encoder"))
    tokens = jnp.zeros((1, 8), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens > 0)
    return model, pretrained.load(name, shapes)
