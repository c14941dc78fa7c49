"""Tests that the image-chunk benchmark compares equal computations."""

import json

import jax
import numpy as np
import pytest

from benchmarks import image_chunks
from mixer_jax.models.encoders.efficientnet import (
    EfficientNet,
    EfficientNetConfig,
)


@pytest.mark.parametrize("name", image_chunks.PASSES)
def test_chunks_compute_the_same(name):
    encoder = EfficientNet(EfficientNetConfig(0.1, 0.1), "frozen")
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    variables = jax.jit(encoder.init)(jax.random.key(0), images)
    rates = {
        f"image_encoder/{path}": float(path.startswith("head"))
        for path in (
            "/".join(key.key for key in keys)
            for keys, _ in jax.tree_util.tree_leaves_with_path(
                variables["params"]
            )
        )
    }
    whole, parts = (
        image_chunks.make_pass(name, encoder, variables, rates, chunk)(images)
        for chunk in (0, 4)
    )
    assert jax.tree.leaves(whole)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        whole,
        parts,
    )


def test_rows_of_the_json(tmp_path, monkeypatch):
    monkeypatch.setattr(
        image_chunks, "make_pass", lambda name, *rest: lambda images: images
    )
    out = tmp_path / "rows.json"
    arguments = ["--chunks=2", "--batch=4", "--rounds=1", f"--json={out}"]
    assert image_chunks.main(arguments) == 0
    rows = json.loads(out.read_text())
    assert [(row["pass"], row["chunk"]) for row in rows] == [
        (name, chunk) for name in image_chunks.PASSES for chunk in (0, 2)
    ]
    assert all(row["images_per_s"] > 0 < row["speedup"] for row in rows)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--chunks=a", "it must be whole numbers"),
        ("--chunks=-1,2", "it must be whole numbers"),
        ("--batch=0", "must be 1 or more"),
    ],
)
def test_bad_options_are_refused(option, message, capsys):
    assert image_chunks.main([option]) == 2
    assert message in capsys.readouterr().err
