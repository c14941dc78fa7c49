"""Comparison of models: the interval, the verdict, and which queries count."""

import dataclasses

import jax
import numpy as np
import pytest

from mixer_jax.data.tables import table
from mixer_jax.retrieval import compare, runs
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh
from tests.color_model import ColorModel


class Negative(ColorModel):
    """Embeds a query as its negated color, so its documents come last."""

    def encode_query(self, query, train=False):
        return -super().encode_query(query, train)


@pytest.fixture
def models(color_run, monkeypatch):
    """A model that finds nothing, and one that finds colors."""
    load = runs.load

    def load_either(folder, mesh):
        trained = load(folder, mesh)
        if folder.name == "stage2":
            return trained
        return dataclasses.replace(trained, model=Negative())

    monkeypatch.setattr(runs, "load", load_either)
    return color_run / "stage1", color_run / "stage2"


def test_the_better_model_is_found(models, colors, num_devices):
    bad, good = models
    mesh = make_mesh(jax.devices()[:num_devices])
    path = colors[0] / "colors.csv"
    found = compare.compare(bad, good, path, mesh)
    assert found["verdict"] == compare.BETTER
    counts = [found[name] for name in ("queries", "categories", "documents")]
    assert counts == [4, 4, 6]  # two documents are distractors
    assert found["identical_at_1"]["new"] == 1.0
    assert found["map"]["current"] == pytest.approx(1 / 6)
    worse = compare.compare(good, bad, path, mesh)
    assert worse["verdict"] == compare.WORSE
    assert worse["map"]["low"] == pytest.approx(-found["map"]["high"])
    allowed = compare.compare(good, bad, path, mesh, tolerance=0.9)
    assert allowed["verdict"] == compare.NOT_WORSE
    assert "95% interval" in compare.lines(found)
    same = compare.compare(good, good, path, mesh)
    assert same["verdict"] == compare.NOT_WORSE


def test_without_a_held_out_query_there_is_no_verdict(models, colors, tmp_path):
    root, frame = colors
    for rows in (
        frame.assign(split=frame["split"].str.replace("test", "train")),
        # The only document shows the query's own picture.
        frame[frame["split"] == "test/forward"].assign(image="red_query.png"),
    ):
        (root / "red_query.png").write_bytes(
            (root / "red_query_forward.png").read_bytes()
        )
        path = root / "other.csv"
        table.write_table(rows, path)
        found = compare.compare(*models, path, make_mesh())
        assert found["verdict"] == compare.UNKNOWN
        assert found["map"] is None
        assert "no held-out query" in compare.lines(found)


def test_queries_of_one_category_are_not_independent():
    rng = np.random.default_rng(0)
    gain = np.repeat(rng.normal(size=20), 5)
    zero, categories = np.zeros(100), np.repeat(np.arange(20), 5)
    clustered = compare.difference(zero, gain, categories)
    # Five copies of a category's query are no more evidence than one.
    single = compare.difference(zero[::5], gain[::5], categories[::5])
    assert clustered == pytest.approx(single)
    assert single.error == pytest.approx(gain[::5].std(ddof=1) / np.sqrt(20))
    spread = compare.difference(zero, gain, np.arange(100))
    assert spread.error < 0.5 * clustered.error
    lone = compare.difference(zero, gain, np.zeros(100))
    assert (lone.error, compare.judge(lone, 0.0)) == (None, compare.UNKNOWN)


def test_equal_models_are_rarely_called_worse():
    rng = np.random.default_rng(0)
    verdicts = [
        compare.judge(
            compare.difference(*rng.random((2, 40)), np.arange(40) // 2), 0.0
        )
        for _ in range(400)
    ]
    assert 0.005 < np.mean([v == compare.WORSE for v in verdicts]) < 0.05


def test_a_damaged_comparison_is_refused(tmp_path):
    path = tmp_path / "comparison.json"
    with pytest.raises(UserError, match=r"^There is no .*json; first compare"):
        compare.read(path)
    for content in ("{", "[]", '{"verdict": "fine"}'):
        path.write_text(content)
        with pytest.raises(UserError, match="damaged; remove it, and compare"):
            compare.read(path)
    path.write_text('{"verdict": "worse"}')
    assert compare.read(path)["verdict"] == compare.WORSE
