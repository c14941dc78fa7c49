"""Export of both towers as programs that need only JAX."""

import functools
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax import export
from mixer_jax.models import factory
from mixer_jax.retrieval import bundle, export_stablehlo, model
from mixer_jax.training.checkpoint.checkpoints import Trained
from mixer_jax.training.config import defaults as config_lib

SIZE, LENGTH = 32, 6
RESNET = '{"blocks": [1], "widths": [8], "stem": 4}'
BERT = '{"width": 8, "layers": 1, "heads": 2, "hidden": 16}'


@pytest.fixture(scope="module")
def small():
    """A small, untrained model with both encoders."""
    config = config_lib.defaults()
    config.data.image_size, config.data.text_length = SIZE, LENGTH
    config.model.dim = config.model.hidden = 8
    config.model.slots = 4
    config.model.image.batch_norm = "frozen"
    config.model.image.name = f"resnet {RESNET}"
    config.model.text.name = f"bert {BERT}"
    made = factory.make_model(config.model, jnp.float32)
    init = functools.partial(factory.init_variables, made, config)
    variables = jax.jit(init)(jax.random.key(0))
    return Trained(config, made, variables, [], 3)


# Needs only NumPy, JAX and the exported files.
READER = """
import sys
import numpy as np
from jax import export

weights = dict(np.load("weights.npz"))
query, document = (
    export.deserialize(bytearray(open(f"{name}.stablehlo", "rb").read()))
    for name in ("query", "document")
)
given = np.load("given.npz")
found = query.call(weights, given["image"])
names = ("image", "has_image", "tokens", "token_mask")
both = document.call(weights, *(given[name] for name in names))
np.savez("found.npz", query=found, document=both)
assert not any(name.startswith("mixer_jax") for name in sys.modules)
"""


def test_towers_need_only_jax(small, tmp_path):
    result = export_stablehlo.write(small, tmp_path)
    assert result == (3, bundle.fingerprint(small))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    texts = ["a red shoe", None, "blue"]
    ours = model.Model(small)
    expected = (
        ours.embed_queries(pixels),
        ours.embed_documents([pixels[0], pixels[1], None], texts),
    )
    tokens, mask = ours._tokenizer([text or "" for text in texts])
    has_image = np.array([True, True, False])
    given = dict(image=pixels, tokens=tokens, token_mask=mask)
    np.savez(tmp_path / "given.npz", has_image=has_image, **given)
    subprocess.run(
        [sys.executable, "-c", READER], cwd=tmp_path, check=True, env={}
    )
    found = np.load(tmp_path / "found.npz")
    for name, array in zip(("query", "document"), expected, strict=True):
        np.testing.assert_allclose(found[name], array, atol=1e-5)


def test_description_names_sizes_and_the_model(small, tmp_path):
    export_stablehlo.write(small, tmp_path)
    meta = json.loads((tmp_path / export_stablehlo.TOWERS).read_text())
    assert meta["fingerprint"] == bundle.fingerprint(small)
    assert (meta["dim"], meta["image_size"], meta["text_length"]) == (8, 32, 6)
    card = (tmp_path / export_stablehlo.CARD).read_text()
    assert "uint8 [B, 32, 32, 3]" in card
    assert meta["fingerprint"] in card
    assert "six months" in card
    names = {path.name for path in tmp_path.iterdir()}
    assert set(export_stablehlo.KIND.names) <= names
    # The code in the card refers only to exported files.
    assert set(re.findall(r'"(\w+\.\w+)"', card)) <= names


def test_bundles_can_be_exported(trained, tmp_path, capsys):
    bundle.write(trained, tmp_path / "bundle")
    out = tmp_path / "out"
    run = [f"--workdir={tmp_path / 'bundle'}", f"--out={out}"]
    assert export.main([*run, "--to=stablehlo"]) == 0
    assert bundle.fingerprint(trained) in capsys.readouterr().out
    assert (out / export_stablehlo.QUERY).stat().st_size
