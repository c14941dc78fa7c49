"""Tests that all searches of the service benchmark are answered and counted."""

import jax
import pytest

from benchmarks import serve
from mixer_jax.retrieval.model import Model
from mixer_jax.training.checkpoint import checkpoints
from mixer_jax.training.config import defaults
from tests import color_model


def test_rows_are_summed_up():
    answers = [(200, 0.01 * n) for n in range(1, 101)] + [(503, 0.002)] * 3
    row = serve.summarize("clients 2", answers, wall=5, cpu=2)
    assert row["per_s"] == 20
    assert row["per_cpu_s"] == 50
    assert row["p50_ms"] == pytest.approx(505)
    assert row["refused"] == 3
    assert row["refused_p99_ms"] == pytest.approx(2)
    with pytest.raises(RuntimeError, match="500"):
        serve.summarize("clients 2", [(500, 0.1)], wall=5, cpu=2)


def test_all_loads_are_measured(monkeypatch):
    config = defaults.defaults()
    config.data.image_size = config.data.text_length = 8
    config.model.dim = 3
    net = color_model.ColorModel()
    variables = color_model.init(None, config, jax.random.key(0))
    model = Model(checkpoints.Trained(config, net, variables, [], 0))
    monkeypatch.setattr(serve, "CLIENTS", (2,))
    monkeypatch.setattr(serve, "PICTURES", 2)
    monkeypatch.setattr(serve, "MINUTE", 0.2)
    rows = serve.measure(20, 0.2, 2, model)
    assert [row["load"].split()[0] for row in rows] == [
        *("bare", "bare", "clients"),
        *("rate", "rate", "rate", "minute", "minute"),
    ]
    capacity = rows[3]["per_s"]
    assert [row["rate"] / capacity for row in rows[4:6]] == [
        pytest.approx(0.8),
        pytest.approx(3),
    ]
    assert all(row["per_s"] > 0 and row["p99_ms"] > 0 for row in rows)
    assert all(row["resident_mb"] > 100 for row in rows[-2:])
    assert serve.table(rows).row_count == 8


def test_growth_compares_the_last_minutes_with_the_first():
    rows = [{"load": "clients 2"}]
    rows += [
        {"resident_mb": size} for size in [100, 104, *[200] * 16, 105, 107]
    ]
    assert serve.growth(rows) == pytest.approx(106 / 102 - 1)
    assert serve.growth(rows[:3]) == pytest.approx(0.04)
    assert serve.growth(rows[:1]) == 0


def test_bad_options_are_reported(capsys):
    assert serve.main(["--items=0"]) == 2
    assert "must be positive" in capsys.readouterr().err
