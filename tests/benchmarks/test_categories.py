import json

import numpy as np
import pytest

from benchmarks import categories, categories_run

SMALL = ["--samples=200", "--width=16", "--text-width=8", "--clicks=20"]


@pytest.fixture
def in_process(monkeypatch):
    """Measures in this process; a new one would take seconds to start."""
    monkeypatch.setattr(categories, "_run", categories_run.run)


def test_rows_and_growth(in_process, tmp_path, capsys):
    path = tmp_path / "rows.json"
    arguments = [*SMALL, "--samples=200,400", f"--json={path}", "--sweep=0.3"]
    assert categories.main(arguments) == 0
    small, large = json.loads(path.read_text())
    assert (small["samples"], large["samples"]) == (200, 400)
    assert small["growth"] is None
    assert np.isfinite(large["growth"])
    assert large["wrong"] == pytest.approx(0.05, abs=0.03)
    assert large["clicks"] == pytest.approx(20 * 400, rel=0.25)
    phases = large["seconds"].copy()
    assert phases.pop("total") == pytest.approx(sum(phases.values()))
    assert list(phases)[:2] == ["neighbors", "evidence"]
    assert large["f1"]["combined"] > large["f1"]["clicks_alone"]
    assert set(large["sweep"]) == {"0.3"}
    assert large["peak_gb"] > 0.01
    out = capsys.readouterr().out
    assert "n^" in out
    assert "threshold 0.3: F1" in out


def test_synthetic_categories_have_a_long_tail():
    features, clicks, truth = categories_run.synthetic(
        3000, 9000, 0.05, (24, 8)
    )
    sizes = np.bincount(truth)
    assert features.samples == len(truth) == 3000
    assert np.median(sizes) <= 4 < sizes.max() / 5
    queries = truth[: len(features.query_image)]
    items = truth[len(features.query_image) :]
    # All categories have both roles, except perhaps the last, which may be cut.
    assert set(queries) - {truth.max()} <= set(items)
    assert clicks["query"].max() < len(queries)
    again, _, _ = categories_run.synthetic(3000, 9000, 0.05, (24, 8))
    np.testing.assert_array_equal(again.item_text, features.item_text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples=many"], ["--samples", "many"]),
        (["--samples=10"], ["10", "100 or more"]),
        (["--samples="], ["100 or more"]),
        (["--sweep=low"], ["--sweep", "low"]),
        (["--method=optics"], ["optics", "dbscan"]),
        (["--log=somewhere"], ["--features"]),
    ],
)
def test_invalid_arguments_are_errors(arguments, words, capsys):
    assert categories.main([*SMALL, *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert all(word in message for word in words)
    assert message.count("\n") == 1
