"""Tests that the convolution benchmark compares equal computations."""

import json
import math

import numpy as np
import pytest

from benchmarks import convolutions
from benchmarks.convolutions import DENSE, DEPTHWISE, PASSES, Layer

SMALL = (
    Layer(DEPTHWISE, 8, 6, 6, 5, 2),
    Layer(DENSE, 8, 3, 4, 3, 1),
    Layer(DENSE, 4, 3, 4, 3, 2),
)


@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name(32))
@pytest.mark.parametrize("name", PASSES)
def test_both_sides_compute_the_same(layer, name):
    given = convolutions.inputs(layer, 32, 2)
    both = convolutions.sides(layer, name)
    ours, native = (both[side](*given) for side in ("ours", "native"))
    assert len(ours) == len(native)
    for mine, theirs in zip(ours, native, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_rows_of_the_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convolutions, "LAYERS", SMALL[1:])
    out = tmp_path / "rows.json"
    arguments = ["--size=32", "--batch=2", "--rounds=2", f"--json={out}"]
    assert convolutions.main(arguments) == 0
    rows = json.loads(out.read_text())
    names = [layer.name(32) for layer in SMALL[1:]]
    assert [(row["pass"], row["layer"]) for row in rows] == [
        (name, layer) for name in PASSES for layer in (*names, "all")
    ]
    for row in rows:
        assert math.isfinite(row["ratio"])
        assert row["ratio"] == row["native_ms"] / row["ours_ms"]
    total = sum(row["ours_ms"] for row in rows[:2])
    assert rows[2]["ours_ms"] == pytest.approx(total)
    assert rows[0]["machine"] in capsys.readouterr().out


def test_invalid_arguments_are_errors(capsys):
    assert convolutions.main(["--size=16"]) == 2
    assert "--size is 16; it must be 32" in capsys.readouterr().err
