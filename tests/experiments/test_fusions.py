import numpy as np
import pandas as pd
import pytest

from mixer_jax.data.tables import table
from mixer_jax.experiments import fusions
from mixer_jax.retrieval import evaluate
from mixer_jax.runtime.mesh import make_mesh


@pytest.fixture
def trained(tiny_towers, monkeypatch):
    monkeypatch.setattr(fusions, "BATCH", 16)
    tiny_towers.config.evaluate.baseline_steps = 20
    return tiny_towers


def test_every_fusion_is_trained_and_measured(trained, colors):
    root, frame = colors
    training = table.select(frame, "train")
    rows = fusions.measure_fusions(
        trained, frame, root, training, root, make_mesh()
    )
    assert {row["model"] for row in rows} == set(fusions.FUSIONS)
    for row in rows:
        assert set(evaluate.MEASURES) < set(row)
        assert row["stage"] == ""
    # Colors alone distinguish these categories.
    best = {
        row["model"]: row["identical_at_1"]
        for row in rows
        if row["split"] == "test" and row["gallery"] == "test"
    }
    assert best["image only"] == 1.0


def test_measures_are_averaged_over_seeds(trained, colors, monkeypatch):
    root, frame = colors
    training = table.select(frame, "train")
    monkeypatch.setattr(fusions, "FUSIONS", {"image only": "image_only"})
    seeds, found = [], []

    def train(*given, whitened):
        assert whitened
        for seed in given[-1]:
            seeds.append(seed)
            yield fusions.Fitted(lambda frame: None, None, [])

    def measure(embed, frame, root, settings, mesh, name):
        found.append(float(len(found)))
        measures = dict.fromkeys((*evaluate.MEASURES, "seconds"), found[-1])
        return [measures | {"relevance_at_1": None}]  # a table without groups

    monkeypatch.setattr(fusions, "train", train)
    monkeypatch.setattr(evaluate, "evaluate", measure)
    (row,) = fusions.measure_fusions(
        trained, frame, root, training, root, make_mesh()
    )
    assert seeds == [0, 1, 2]
    assert row.pop("relevance_at_1") is None
    assert set(row.values()) == {1.0}


def test_only_average_fusion_depends_on_text(trained, colors, tmp_path):
    root, frame = colors
    frame = fusions.with_paths(frame, root)
    silent = frame[frame.role == table.DOCUMENT].assign(text="")
    both = pd.concat([frame, silent])
    both = both.assign(place=np.arange(len(both)))
    frame, silent = both[: len(frame)], both[len(frame) :]
    documents = frame[frame.role == table.DOCUMENT]
    encoded = fusions.encode(trained, both, tmp_path / "features", make_mesh())
    for fusion, reads_text in (("image_only", False), ("average", True)):
        (fitted,) = fusions.train(
            fusions.make_config(trained.config, fusion),
            encoded,
            table.select(frame, "train"),
            np.random.default_rng(0),
            make_mesh(),
            [0],
        )
        moved = np.abs(fitted.embed(documents) - fitted.embed(silent)).max()
        assert (moved > 1e-3) == reads_text


def test_towers_start_whitened(trained, colors, tmp_path):
    root, frame = colors
    frame = fusions.with_paths(frame, root).assign(place=np.arange(len(frame)))
    encoded = fusions.encode(trained, frame, tmp_path / "features", make_mesh())
    config = fusions.make_config(trained.config, "image_only")
    config.steps, config.optimizer.learning_rate = 1, 0.0
    training = table.select(frame, "train")
    embedded = []
    for whitened in (True, True, False):
        rng = np.random.default_rng(0)
        (fitted,) = fusions.train(
            config, encoded, training, rng, make_mesh(), [0], whitened
        )
        queries = training[training.role == table.QUERY]
        embedded.append(fitted.embed(queries))
    first, again, random = embedded
    np.testing.assert_array_equal(first, again)
    # Random towers keep the mean that all encodings share.
    assert np.linalg.norm(first.mean(0)) < np.linalg.norm(random.mean(0))
