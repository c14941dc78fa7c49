"""A tiny table of coloured squares and a model that sees their colour."""

from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mixer_jax.data import table


class ColourModel(nn.Module):
    """Embeds an image as its mean colour; the interface of a Mixer."""

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, ())

    def __call__(self, images):
        return self.encode_query(images)

    def encode_query(self, images, train=False):
        colour = images.astype(jnp.float32).mean((1, 2)) / 255.0 - 0.5
        colour *= self.scale
        norm = jnp.linalg.norm(colour, axis=-1, keepdims=True)
        return colour / jnp.maximum(norm, 1e-6)

    def encode_document(
        self, images, has_image, tokens, token_mask, train=False
    ):
        # A text without an image points to one fixed corner.
        corner = jnp.array([[0.0, 0.0, 1.0]])
        return jnp.where(has_image[:, None], self.encode_query(images), corner)


@pytest.fixture
def trained():
    config = ConfigDict(
        {
            "data": {
                "tokenizer": "minilm",
                "text_length": 8,
                "image_size": 8,
                "threads": 0,
            },
            "model": {"dim": 3},
        }
    )
    model = ColourModel()
    variables = {"params": {"scale": np.float32(1.0)}}
    return SimpleNamespace(config=config, model=model, variables=variables)


COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "grey": (90, 90, 90),
    "white": (250, 255, 255),
}


@pytest.fixture
def colours(tmp_path):
    """A folder and its table: four test colours, two of training."""
    rng = np.random.default_rng(0)
    rows = []
    for colour, pixel in COLOURS.items():
        split = "train" if colour in ("grey", "white") else "test"
        for part in ("forward", "reverse"):
            for role in ("query", "document"):
                name = f"{colour}_{role}_{part}"
                noise = rng.integers(-20, 20, (8, 8, 3))
                pixels = np.clip(np.array(pixel) + noise, 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(
                    tmp_path / f"{name}.png"
                )
                rows.append(
                    (
                        name,
                        role,
                        f"{name}.png",
                        colour if role == "document" else "",
                        colour,
                        "warm" if colour in ("red", "yellow") else "cold",
                        f"{split}/{part}",
                    )
                )
    frame = pd.DataFrame(rows, columns=list(table.COLUMNS))
    table.write_table(frame, tmp_path / "colours.csv")
    return tmp_path, table.read_table(tmp_path / "colours.csv")
