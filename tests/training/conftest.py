"""A small table of colored squares, and a model that compiles quickly."""

import functools
import pathlib
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data.tables import table
from mixer_jax.models import factory
from mixer_jax.training.config import defaults as config_lib

CATEGORIES = 12


class Encoder(nn.Module):
    """Means of the four quadrants, a dense layer and batch normalization."""

    frozen: bool

    @nn.compact
    def __call__(self, images, train):
        x = images.astype(jnp.float32) / 128 - 1
        batch, size = x.shape[:2]
        x = x.reshape(batch, 2, size // 2, 2, size // 2, 3).mean((2, 4))
        # The gradient of a bias before normalization would be pure noise.
        x = nn.Dense(16, use_bias=False)(x.reshape(batch, 1, 12))
        return nn.BatchNorm(use_running_average=self.frozen or not train)(x)


class Model(nn.Module):
    """A shallow model with the interface of the towers."""

    dim: int
    frozen: bool
    dtype: jnp.dtype

    def setup(self):
        self.image_encoder = Encoder(self.frozen)
        self.text_encoder = nn.Embed(512, 16)
        self.query_layers = nn.Dense(self.dim, dtype=self.dtype)
        self.document_layers = nn.Dense(self.dim, dtype=self.dtype)
        self.dropout = nn.Dropout(0.1)

    def encode_query(self, query, train=False):
        if "embedding" in query:
            return query["embedding"]
        x = self.patches(query, train).mean(1)
        x = self.dropout(x, deterministic=not train)
        return unit(self.query_layers(x))

    def encode_document(self, document, train=False):
        if "embedding" in document:
            return document["embedding"]
        x = self.patches(document, train).mean(1)
        x = x * document["has_image"][:, None]
        return unit(self.document_layers(x + self.concept(document)))

    def patches(self, part, train):
        if "patches" in part:
            return part["patches"].astype(self.dtype)
        return self.image_encoder(part["image"], train)

    def concept(self, document):
        if "token_vectors" in document:
            vectors = document["token_vectors"].astype(self.dtype)
        else:
            vectors = self.text_encoder(document["tokens"] % 512)
        weight = document["token_mask"][..., None].astype(jnp.float32)
        return (vectors * weight).sum(1)

    def encode_images(self, images):
        return self.image_encoder(images, False)

    def encode_texts(self, tokens, token_mask):
        return self.text_encoder(tokens % 512)

    def __call__(self, batch, train):
        embeddings = {
            "query": self.encode_query(batch["query"], train),
            "document": self.encode_document(batch["document"], train),
        }
        if "embedding" in batch["document"]:
            return embeddings
        concept = self.concept(batch["document"])
        return embeddings | {
            "concept": concept,
            "slots": nn.softmax(concept[:, :8]),
        }


def unit(x):
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def make_model(config, dtype):
    return Model(config.dim, config.image.batch_norm == "frozen", dtype)


def init_variables(model, config, key):
    image = jnp.zeros((2, config.data.image_size, config.data.image_size, 3))
    tokens = jnp.zeros((2, config.data.text_length), jnp.int32)
    batch = {
        "query": {"image": image},
        "document": {
            "image": image,
            "has_image": jnp.ones((2,), bool),
            "tokens": tokens,
            "token_mask": tokens == 0,
        },
    }
    return jax.jit(functools.partial(model.init, train=False))(key, batch)


def write_table(folder, categories=CATEGORIES):
    """Writes two queries and two documents in each category's color."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    colors = rng.integers(40, 200, (categories, 3))
    samples = []
    for category in range(categories):
        for role in (table.QUERY, table.DOCUMENT):
            for copy in range(2):
                name = f"{role}-{category}-{copy}"
                color = tuple(int(c) + 20 * copy for c in colors[category])
                Image.new("RGB", (16, 16), color).save(folder / f"{name}.png")
                titled = role == table.DOCUMENT
                samples.append(
                    {
                        "sample_id": name,
                        "role": role,
                        "image": f"{name}.png",
                        "text": f"thing number {category}" if titled else "",
                        "category_id": f"c{category:02d}",
                        "group": "",
                        "split": "train",
                    }
                )
    path = folder / "table.csv"
    table.write_table(pd.DataFrame(samples), path)
    return path


def make_batch(config, categories=CATEGORIES, seed=0):
    """Returns a batch like the pipeline's, of noise in a color per category."""
    rng = np.random.default_rng(seed)
    half, size = config.batch_size // 2, config.data.image_size
    colors = np.random.default_rng(9).integers(0, 200, (categories, 3))

    def images(labels):
        noise = rng.integers(0, 40, (half, size, size, 3))
        return (colors[labels][:, None, None] + noise).astype(np.uint8)

    labels = rng.integers(0, categories, (2, half)).astype(np.int32)
    length = config.data.text_length
    return {
        "query": {"image": images(labels[0]), "label": labels[0]},
        "document": {
            "image": images(labels[1]),
            "has_image": rng.random(half) < 0.9,
            "tokens": np.tile(labels[1][:, None] + np.int32(100), (1, length)),
            "token_mask": np.arange(length)[None]
            < rng.integers(0, length, (half, 1)),
            "label": labels[1],
        },
    }


@pytest.fixture
def toy(monkeypatch):
    """Replaces the factory's models with the small one."""
    monkeypatch.setattr(factory, "make_model", make_model)
    monkeypatch.setattr(factory, "init_variables", init_variables)
    return types.SimpleNamespace(
        make_model=make_model,
        init_variables=init_variables,
        make_batch=make_batch,
        write_table=write_table,
        categories=CATEGORIES,
    )


@pytest.fixture(scope="session")
def tiny_table(tmp_path_factory):
    """The path of a table that no test changes."""
    return write_table(tmp_path_factory.mktemp("table"))


@pytest.fixture
def tiny_config(tiny_table):
    """A stage of eight steps on `tiny_table`."""
    config = config_lib.defaults()
    config.steps = 8
    config.batch_size = 16
    config.precision = "float32"
    config.log_every = 2
    config.data.table = str(tiny_table)
    config.data.image_size = 16
    config.data.text_length = 8
    config.data.augment = "light"
    config.model.dim = 16
    config.model.slots = 8
    config.checkpoint.every = 3
    config.monitors.every = 4
    config.head.active = 1.0
    config.head.neighbors = 4
    config.head.refresh = 3
    config.proxies.learning_rate = 0.5
    config.optimizer.learning_rate = 1e-2
    return config


@pytest.fixture
def cached_config(tiny_config):
    """A stage with frozen encoders and cached outputs."""
    tiny_config.data.cached = True
    tiny_config.data.augment = "none"
    tiny_config.model.image.batch_norm = "frozen"
    tiny_config.optimizer.parts = (("image_encoder|text_encoder", 0.0),)
    return tiny_config


@pytest.fixture(scope="session")
def begin(tmp_path_factory, tiny_table):
    """Starts the toy curriculum in several processes; 4 devices in total."""
    from tests import several  # toy_main.py cannot import it

    cache = tmp_path_factory.mktemp("compiled")
    folder = pathlib.Path(__file__).parent

    def begin(workdir, processes, *flags, **variables):
        command = (
            folder / "toy_main.py",
            f"--config={folder / 'toy_config.py'}:{tiny_table}",
            f"--workdir={workdir}",
            *flags,
        )
        devices = 4 // processes
        return several.begin(command, processes, devices, cache, **variables)

    return begin


@pytest.fixture(scope="session")
def whole(begin, tmp_path_factory):
    """The workdir of an uninterrupted run in one process."""
    from tests import several

    workdir = tmp_path_factory.mktemp("whole")
    (ended,) = several.finish(begin(workdir, 1))
    assert ended.code == 0, ended.error
    return workdir
