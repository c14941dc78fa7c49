"""Frozen encoders without trained weights, for the categorize command.

python tests/small_encoders.py categorize --image-encoder=small ... runs
mixer_jax.categorize. It reads these environment variables; LOG is required:

  PARTS   the number of images or texts per part
  LOG     a file to which a line is appended for each encoded part
  STALL   the number of parts after which a process logs "stalled", then hangs
"""

import os
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer_jax import categorize
from mixer_jax.categories.evidence import encoding
from mixer_jax.models import factory, features
from mixer_jax.models.weights import pretrained

FLAGS = ("--image-encoder=small", "--text-encoder=small", "--size=16")


class SmallImage(nn.Module):
    """One convolution with the interface of the image encoders."""

    @nn.compact
    def __call__(self, images):
        pixels = images.astype(jnp.float32) / 255.0
        out = nn.relu(nn.Conv(24, (4, 4), strides=4)(pixels))
        return out.reshape(len(out), -1, out.shape[-1])


class SmallText(nn.Module):
    """Per-token embeddings with the interface of the text encoders."""

    @nn.compact
    def __call__(self, tokens, mask):
        return nn.Embed(40_000, 12)(tokens) * mask[..., None]


def use_them():
    """Adds the encoders under the name "small"."""
    load, read_tokenizer = pretrained.load, features.text.load
    parts = {"image_encoder": SmallImage, "text_encoder": SmallText}
    pretrained.SOURCES["small"] = None
    for part, module in parts.items():
        factory.ENCODERS[part]["small"] = module

    def load_small(name, shapes):
        if name != "small":
            return load(name, shapes)
        key, tokens = jax.random.key(3), jnp.zeros((1, 8), jnp.int32)
        if "Embed_0" in shapes["params"]:
            return SmallText().init(key, tokens, tokens > 0)
        return SmallImage().init(key, jnp.zeros((1, 16, 16, 3), jnp.uint8))

    pretrained.load = load_small
    features.text.load = lambda name, length: read_tokenizer("minilm", length)


def observe():
    """Logs encoded parts, and stalls if STALL is set."""
    encoding._PART = int(os.environ.get("PARTS", encoding._PART))
    stall = int(os.environ.get("STALL", 10**9))
    done = []

    def observed(name):
        encode = getattr(features, name)

        def encode_and_log(*given, **options):
            stalls = len(done) == stall
            with open(os.environ["LOG"], "a") as file:
                file.write(f"{'stalled' if stalls else given[1][0]}\n")
            if stalls:
                time.sleep(3600)
            done.append(name)
            return encode(*given, **options)

        setattr(features, name, encode_and_log)

    observed("image_features")
    observed("text_features")


if __name__ == "__main__":
    use_them()
    observe()
    sys.exit(categorize.main(sys.argv[2:]))
