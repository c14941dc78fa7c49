import numpy as np
import pytest

from mixer_jax.data.tables import table
from mixer_jax.experiments import folds, frozen, objectives, trainer
from mixer_jax.experiments.objectives import OBJECTIVES
from mixer_jax.runtime.mesh import make_mesh


@pytest.fixture
def data(tiny_table, tiny_encoders, tmp_path):
    ((fold,),) = folds.read({"colors": tiny_table}, 0.0).values()
    features = frozen.encode(
        *(tiny_encoders, [fold], tmp_path / "features", make_mesh(), print)
    )
    return fold, features, tiny_encoders.config


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_training_lowers_every_loss(loss, data):
    fold, features, config = data
    config = config.copy_and_resolve_references()
    config.model.fusion = "average" if loss == "cosface" else "image_only"
    objective = OBJECTIVES[loss]
    space = {**objectives.SHARED, **objective.space}
    hyper = objectives.draw(space, 0, 3)
    if loss == "triplet":
        hyper["margin"] = 1.0  # the default is met from the start
    found = {}
    # All six colors: two of them are easy to tell apart without training.
    for steps in (1, 20):
        fitted = trainer.Trainer(
            *(config, objective, features, fold.frame),
            steps=steps,
            pairs=12,
        ).train(hyper, seed=1)
        found[steps] = fitted.loss
    assert found[20] < found[1]
    queries = fold.split("test")
    queries = queries[queries["role"] == table.QUERY]
    embeddings = fitted.embed(queries)
    lengths = np.linalg.norm(embeddings, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)


def test_runs_depend_on_their_arguments_only(data):
    fold, features, config = data
    objective = OBJECTIVES["siglip"]
    made = trainer.Trainer(
        *(config, objective, features, fold.split("train")), steps=3, pairs=4
    )
    space = {**objectives.SHARED, **objective.space}
    first, second = (objectives.draw(space, trial, 3) for trial in (0, 1))
    one = made.train(first, 0)
    others = [made.train(first, 1), made.train(second, 0)]
    assert made.train(first, 0).loss == one.loss
    assert all(other.loss != one.loss for other in others)
    documents = fold.split("test")
    documents = documents[documents["role"] == table.DOCUMENT]
    np.testing.assert_array_equal(
        one.embed(documents)[1:], one.embed(documents[1:])
    )
