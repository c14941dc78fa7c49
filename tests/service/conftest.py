"""An index of colored pictures, embedded by the color model."""

import asyncio
import io

import jax
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mixer_jax.retrieval.model import Model
from mixer_jax.service import opening, server
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http.settings import DEFAULTS
from mixer_jax.training.checkpoint import checkpoints
from mixer_jax.training.config import defaults
from tests import color_model

COLORS = ("red", "green", "blue", "yellow", "gray", "white")
PIXELS = 50_000_000


def draw(color, kind="png", size=(20, 20)):
    """Returns the bytes of a picture."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def observe_loops(patch, owner, name):
    """Returns a list that collects the event loop, or None, of each call."""
    loops, function = [], getattr(owner, name)

    def observe(*arguments, **options):
        loops.append(asyncio._get_running_loop())
        return function(*arguments, **options)

    patch.setattr(owner, name, observe)
    return loops


@pytest.fixture(scope="session")
def color_net():
    """The color model, compiled once."""
    config = defaults.defaults()
    config.data.image_size = config.data.text_length = 8
    config.model.dim = 3
    net = color_model.ColorModel()
    variables = color_model.init(None, config, jax.random.key(0))
    return Model(checkpoints.Trained(config, net, variables, [], 4))


def fill(folder, model, root):
    """Builds an index of two picture files per color."""
    root.mkdir()
    for color in COLORS:
        for kind in ("png", "jpeg"):
            (root / f"{color}.{kind}").write_bytes(draw(color, kind))
    names = [f"{color}.{kind}" for color in COLORS for kind in ("png", "jpeg")]
    colors = [name.split(".")[0] for name in names]
    with opening.open_index(folder, model, images=root, thumbnails=0) as index:
        index.upsert(
            names,
            images=[root / name for name in names],
            texts=[f"{color} paint" for color in colors],
            categories=colors,
            groups=[
                "warm" if c in ("red", "yellow") else "cold" for c in colors
            ],
            fields=[{"price": float(i)} for i in range(12)],
        )


def opener(folder, model, images=None):
    """Returns a function that opens an index with a loaded model."""
    return lambda _: opening.open_with(folder, model, images=images)


@pytest.fixture(scope="module")
def shared(color_net, tmp_path_factory):
    """An opened index; tests must not change it."""
    root = tmp_path_factory.mktemp("index")
    fill(root / "index", color_net, root / "pictures")
    images = root / "pictures"
    with Generations(opener(root / "index", color_net, images), PIXELS) as made:
        yield made


@pytest.fixture
def place(color_net, tmp_path):
    """The folder of an index that a test may change."""
    fill(tmp_path / "index", color_net, tmp_path / "pictures")
    return tmp_path / "index"


@pytest.fixture
def own(place, color_net):
    """The opened index in `place`."""
    images = place.parent / "pictures"
    with Generations(opener(place, color_net, images), PIXELS) as made:
        yield made


@pytest.fixture
def client(shared):
    """A client of the shared index; requests are limited to 10 kB."""
    settings = DEFAULTS._replace(max_megabytes=0.01)
    with TestClient(server.make_app(shared, settings)) as client:
        yield client
