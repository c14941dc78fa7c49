import numpy as np
import pytest

from mixer_jax.experiments import baselines, folds, frozen, methods, suites
from mixer_jax.experiments.suites import Method
from mixer_jax.runtime.mesh import make_mesh


@pytest.fixture
def setting(tiny_table, tiny_encoders, tmp_path):
    ((fold,),) = folds.read({"colors": tiny_table}, 0.0).values()
    mesh = make_mesh()
    features = frozen.encode(
        tiny_encoders, [fold], tmp_path / "features", mesh, print
    )
    budget = methods.Budget(trials=2, seeds=3, steps=2, pairs=4)
    return methods.Setting(fold, tiny_encoders, features, budget, mesh)


def test_heads_get_an_active_set_that_holds_the_positives(setting):
    settings = (("name", "knn"), ("active", 0.1), ("neighbors", 1))
    method = Method("knn", "Active sets", suites.HEAD, head=settings)
    result = methods.Runner(method, setting).run({}, 1)
    assert result.figures["active"] == 1.0  # of two categories
    assert result.figures["batch_size"] == 2 * setting.mesh.size
    assert result.figures["step_ms"] > 0
    assert result.embed(setting.fold.split("test")[:2]).shape == (2, 8)


def test_spaces_and_seeds(setting):
    frozen_encoders = Method("frozen", "Floors", suites.FROZEN)
    assert not methods.space(frozen_encoders)
    assert list(methods.seeds(frozen_encoders, setting.budget)) == [1]
    towers = Method("towers", "Losses", loss="triplet")
    assert set(methods.space(towers)) == {
        *("learning_rate", "weight_decay", "margin")
    }
    assert list(methods.seeds(towers, setting.budget)) == [1, 2, 3]
    for kind in suites.CLOSED:
        floor = Method(kind, "Floors", kind)
        assert not methods.space(floor)
        assert list(methods.seeds(floor, setting.budget)) == [1]


def test_a_part_can_be_left_out_of_training(setting, monkeypatch):
    trained = []
    monkeypatch.setattr(
        methods, "Trainer", lambda *args, **_: trained.append(args[3])
    )
    for part in ("", "forward"):
        method = Method("towers", "Losses", without=part)
        runner = methods.Runner(method, setting)
        with pytest.raises(AttributeError):
            runner.run({}, 1)
    whole, rest = (set(frame["split"]) for frame in trained)
    assert whole == {"train/forward", "train/reverse"}
    assert rest == {"train/reverse"}


def test_zero_shot_is_the_last_layer(setting, monkeypatch):
    def encode(paths, size):
        assert size == setting.encoders.config.data.image_size
        return {path: np.full(3, len(path)) for path in paths}

    monkeypatch.setattr(baselines, "encode_images", encode)
    method = Method("last layer", "Floors", suites.ZERO_SHOT)
    rows = setting.fold.split("test").iloc[:2].copy()
    rows["path"] = ["", "abcd"]
    found = methods.Runner(method, setting).run({}, 1).embed(rows)
    np.testing.assert_array_equal(found, [[0, 0, 0], [4, 4, 4]])
