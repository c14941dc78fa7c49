"""Tests that the encoder benchmark compares equal computations.

No test asserts a time.
"""

import json
import math

import numpy as np
import pytest

from benchmarks import encoder_memory, encoder_sides, encoders, partial_fc_torch
from mixer_jax.models.encoders import bert, resnet, swin, vit

KEYS = (
    "model",
    "pass",
    "batch",
    "size",
    "ours_per_s",
    "peer_per_s",
    "ratio",
    "peak_mb",
)
TINY = {
    "tiny-bert": (
        bert,
        bert.Bert,
        bert.BertConfig(width=16, layers=1, heads=2, hidden=32),
    ),
    "tiny-resnet": (
        resnet,
        resnet.ResNet,
        resnet.ResNetConfig(
            blocks=(1, 1), widths=(8, 16), stem=8, bottleneck=False
        ),
    ),
    "tiny-swin": (
        swin,
        swin.Swin,
        swin.SwinConfig(width=8, blocks=(2, 1), heads=(2, 2), window=4),
    ),
    "tiny-vit": (
        vit,
        vit.ViT,
        vit.ViTConfig(
            width=16, layers=1, heads=2, hidden=32, patch=8, image_size=16
        ),
    ),
}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    for name, (family, encoder, config) in TINY.items():
        monkeypatch.setitem(family.CONFIGS, name, config)
        monkeypatch.setitem(encoder_sides.MODELS, name, (family, encoder))


def test_rows_of_the_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        encoder_memory,
        "measure",
        lambda problem, name, side: 1.0 if side == "ours" else 2.0,
    )
    monkeypatch.setattr(encoders, "peak", lambda: 1e12)
    out = tmp_path / "encoders.json"
    arguments = ["--models=tiny-bert,tiny-resnet", "--size=32", "--batch=2"]
    assert encoders.main([*arguments, "--rounds=2", f"--json={out}"]) == 0
    rows = json.loads(out.read_text())
    assert [(row["model"], row["pass"]) for row in rows] == [
        (model, name)
        for model in ("tiny-bert", "tiny-resnet")
        for name in ("forward", "forward+backward")
    ]
    for row in rows:
        assert tuple(row)[: len(KEYS)] == KEYS
        assert (row["batch"], row["size"], row["rounds"]) == (2, 32, 2)
        numbers = [row[key] for key in KEYS[4:]]
        assert all(math.isfinite(n) and n > 0 for n in numbers)
        ratio = row["ours_per_s"] / row["peer_per_s"]
        assert row["ratio"] == pytest.approx(ratio)
        assert (row["peak_mb"], row["peer_peak_mb"]) == (1, 2)
        passes = row["ours_per_s"] / (64 if row["items"] == "tokens" else 2)
        share = row["gflop"] * 1e9 * passes / 1e12
        assert row["flop_share"] == pytest.approx(share)
        assert row["versions"].keys() >= {"jax", "torch", "transformers"}
    printed = capsys.readouterr().out
    assert rows[0]["machine"] in printed
    assert "tiny-bert" in printed


def test_a_rate_counts_images_or_tokens():
    peaks = {"ours": 1.0, "peer": 1.0}
    times = {"ours": [0.5, 0.5, 9.0], "peer": [1.0, 1.0, 1.0]}
    for model, items, rate in (
        ("tiny-bert", "tokens", 8 * 32 / 0.5),
        ("tiny-vit", "images", 8 / 0.5),
    ):
        problem = encoder_sides.Problem(model, 8, 32)
        row = encoders._row(problem, "forward", times, peaks, 3)
        assert row["items"] == items
        assert row["ours_per_s"] == rate
        assert row["ratio"] == 2


@pytest.mark.parametrize("model", list(TINY))
def test_both_sides_compute_the_same(model):
    problem = encoder_sides.Problem(model, 2, 40)
    peer, ours = encoder_sides.Peer(problem), encoder_sides.Ours(problem)
    ours.place(peer.tensors())
    for name in encoder_sides.PASSES:
        ours.compile(name)
        mine, theirs = ours.run(name), peer.run(name).numpy()
        if theirs.ndim == 4:
            theirs = theirs.reshape(*theirs.shape[:2], -1).swapaxes(1, 2)
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-5 * largest)
    # The backward pass has two matrix products per forward product.
    forward, both = (ours.flops[name] for name in encoder_sides.PASSES)
    assert 2.3 < both / forward < 3.7


def test_memory_of_both_sides():
    for side in encoder_memory.SIDES:
        problem = {"model": "tiny-bert", "batch": 2, "size": 8}
        peak = encoder_memory.run(problem, "forward+backward", side)
        assert math.isfinite(peak)
        # At least the 30,522 word embeddings of size 16 and their gradients.
        assert side == "peer" or peak > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models=tiny-bort"], ["tiny-bort", "tiny-bert"]),
        (["--size=0"], ["--size", "1"]),
        (["--batch=0"], ["--batch", "1"]),
        (["--rounds=0"], ["--rounds", "1"]),
        (["--models=tiny-bert", "--size=600"], ["600", "512", "tokens"]),
        (["--models=tiny-vit", "--size=16"], ["16", "32", "pixels"]),
    ],
)
def test_invalid_arguments_are_errors(arguments, words, capsys):
    assert encoders.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert all(word in message for word in words)
    assert message.count("\n") == 1


def test_missing_torch_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(partial_fc_torch, "available", lambda: False)
    assert encoders.main([]) == 2
    assert "install torch" in capsys.readouterr().err


def test_every_model_has_an_original():
    for name in encoder_sides.MODELS:
        problem = encoder_sides.Problem(name, 1, 32)
        kind, config = encoder_sides.original(problem)
        assert config.model_type == kind.config_class.model_type
