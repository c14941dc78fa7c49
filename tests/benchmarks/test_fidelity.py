"""Tests that the fidelity benchmark changes nothing but the head."""

import json

import pytest

from benchmarks import fidelity
from mixer_jax.training.checkpoint import checkpoints


@pytest.fixture
def measure(tiny_towers, colors, monkeypatch, tmp_path):
    """Runs the command on the table of colors; returns its rows."""
    root, _ = colors
    monkeypatch.setattr(checkpoints, "load_model", lambda *_: tiny_towers)
    tiny_towers.config.data.threads = 0

    def run(*options):
        out = tmp_path / "rows.json"
        code = fidelity.main(
            [
                "--workdir=unused",
                f"--table={root / 'colors.csv'}",
                "--steps=4",
                "--batch=16",
                "--head.neighbors=1",
                f"--json={out}",
                *options,
            ]
        )
        return json.loads(out.read_text()) if code == 0 else code

    return run


def test_heads_with_all_rows_active_match_exact(measure):
    rows = measure("--active=1", "--seeds=2", "--heads=exact/knn/sampled")
    assert [(row["seed"], row["head"]) for row in rows] == [
        (seed, head) for seed in (0, 1) for head in ("exact", "knn", "sampled")
    ]
    for row in rows:
        exact = rows[0] if row["seed"] == 0 else rows[3]
        for name in fidelity.MEASURES:
            assert row[name] == exact[name]
        assert row["categories"] == 2


def test_an_unknown_head_is_an_error(measure, capsys):
    assert measure("--heads=exact/fast") == 2
    assert "Unknown head 'fast'; known: exact" in capsys.readouterr().err
