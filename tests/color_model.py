"""A model without trained weights, and commands that use it.

python tests/color_model.py embed --workdir=... runs mixer_jax.embed. If the
environment variable LOG is set, a line is appended to that file for each
embedded shard. If STALL is set, a process logs "stalled" after that number of
shards, then hangs.
"""

import importlib
import os
import sys
import time

import flax.linen as nn
import jax.numpy as jnp

from mixer_jax.models import factory


class ColorModel(nn.Module):
    """Embeds an image as its mean color; has the interface of the towers."""

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, ())

    def encode_query(self, query, train=False):
        return self.unit_color(query["image"])

    def unit_color(self, images):
        color = images.astype(jnp.float32).mean((1, 2)) / 255.0 - 0.5
        color *= self.scale
        norm = jnp.linalg.norm(color, axis=-1, keepdims=True)
        return color / jnp.maximum(norm, 1e-6)

    def encode_document(self, document, train=False):
        # Documents without an image share one fixed embedding.
        corner = jnp.array([[0.0, 0.0, 1.0]])
        color = self.unit_color(document["image"])
        return jnp.where(document["has_image"][:, None], color, corner)


def init(model, config, key):
    """Returns the variables; see `factory.init_variables`."""
    images = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    return ColorModel().init(key, images, method="unit_color")


def use_it(replace=setattr):
    """Replaces every model with the color model."""
    replace(factory, "make_model", lambda config, dtype: ColorModel())
    replace(factory, "init_variables", init)


def observe():
    """Logs embedded shards, and stalls if STALL is set."""
    from mixer_jax.retrieval.sharded import embedder

    embed, done = embedder.Embedder.__call__, []
    stall = int(os.environ.get("STALL", 10**9))

    def embed_and_log(self, frame, *given):
        stalls = len(done) == stall
        line = "stalled" if stalls else frame["sample_id"].iloc[0]
        with open(os.environ["LOG"], "a") as file:
            file.write(f"{line}\n")
        if stalls:
            time.sleep(3600)
        done.append(frame)
        return embed(self, frame, *given)

    embedder.Embedder.__call__ = embed_and_log


if __name__ == "__main__":
    use_it()
    if "BLOCK" in os.environ:  # queries ranked at once
        from mixer_jax.retrieval import evaluate

        evaluate.BLOCK = int(os.environ["BLOCK"])
    if "LOG" in os.environ:
        observe()
    command = importlib.import_module(f"mixer_jax.{sys.argv[1]}")
    sys.exit(command.main(sys.argv[2:]))
