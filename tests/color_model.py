"""A model without trained weights, and commands that use it.

python tests/color_model.py embed --workdir=... runs mixer_jax.embed.
"""

import importlib
import sys

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
    """Makes every model a color model."""
    replace(factory, "make_model", lambda config, dtype: ColorModel())
    replace(factory, "init_variables", init)


if __name__ == "__main__":
    use_it()
    command = importlib.import_module(f"mixer_jax.{sys.argv[1]}")
    sys.exit(command.main(sys.argv[2:]))
