"""Tests that the scaling benchmark compiles the step of a run."""

import json

import pytest

from benchmarks import scaling

SMALL = ("--devices=1,4", "--topologies=", "--categories=512", "--batch=16")


@pytest.fixture
def config(tiny_towers, monkeypatch):
    """A small stage instead of the one in the file."""
    small = tiny_towers.config
    small.head.name = "knn"
    small.head.active = 0.5
    monkeypatch.setattr(scaling, "load_config", lambda path: small)


def test_collectives_are_the_same_and_their_bytes_grow_with_the_batch(
    config, tmp_path
):
    file = tmp_path / "rows.json"
    assert scaling.main(["--config=small", *SMALL, f"--json={file}"]) == 0
    rows = json.loads(file.read_text())
    assert [(row["series"], row["devices"]) for row in rows] == [
        (series, devices) for series in ("strong", "weak") for devices in (1, 4)
    ]
    strong, weak = rows[:2], rows[2:]
    assert strong[0]["collective_bytes"] == 0
    kinds = [set(row["collectives"]) for row in rows if row["devices"] > 1]
    assert all(kind == kinds[0] for kind in kinds)
    assert [row["batch"] for row in weak] == [16, 64]
    assert [row["categories"] for row in weak] == [512, 2048]
    assert weak[1]["collective_bytes"] > strong[1]["collective_bytes"]


def test_efficiency_is_relative_to_the_fewest_chips():
    rows = [
        {"kind": "tpu", "series": s, "devices": n, "roofline_ms": t}
        for s, n, t in (
            ("strong", 4, 8.0),
            ("strong", 16, 4.0),
            ("weak", 4, 8.0),
            ("weak", 16, 10.0),
        )
    ]
    scaling.add_efficiency(rows)
    assert [row["efficiency"] for row in rows] == [1.0, 0.5, 1.0, 0.8]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config=configs/none.py"],
            "The config file configs/none.py does not exist",
        ),
        (["--config=configs/quickstart.py"], "has several stages"),
    ],
)
def test_invalid_arguments_are_errors(flags, message, capsys):
    assert scaling.main(flags) == 2
    assert message in capsys.readouterr().err
