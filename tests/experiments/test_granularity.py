import json

import numpy as np
import pytest

from mixer_jax.categories import outcome
from mixer_jax.data.tables import table
from mixer_jax.experiments import granularity
from mixer_jax.experiments.baselines import LinearMap
from mixer_jax.runtime.errors import UserError
from tests.shop import CATEGORIES, ITEMS, QUERIES

QUICK = LinearMap(dim=64, steps=200, batch_size=64)


@pytest.fixture
def known(shop):
    truth = table.read_table(shop / "data/table.csv")
    return outcome.read(shop, shop / "log", truth)


@pytest.fixture
def blind(shop):
    return outcome.read(shop, shop / "log")


def test_exam_uses_held_out_categories(known):
    exam = granularity.make_exam(known)
    assert exam.of == granularity.TRUTH
    assert len(exam.queries) == CATEGORIES // 4 * QUERIES
    assert len(exam.items) == CATEGORIES // 4 * ITEMS
    truth = known.samples["truth"]
    for query, right in zip(exam.queries, exam.right, strict=True):
        assert {truth[row] for row in right} == {truth[query]}
        assert len(right) == ITEMS
    asked = np.concatenate([exam.queries, exam.items])
    assert not exam.trained[asked].any()
    assert exam.trained.sum() == len(known.samples) - len(asked)


def test_exam_without_truth_uses_later_clicks(blind):
    exam = granularity.make_exam(blind)
    assert exam.of == granularity.LATER
    assert 0 < len(exam.queries) < CATEGORIES * QUERIES / 2
    assert len(exam.items) == CATEGORIES * ITEMS
    assert not exam.trained[exam.queries].any()
    assert exam.trained.sum() == len(blind.samples) - len(exam.queries)
    query = exam.queries[0]
    clicked = blind.later[(blind.later["query"] == query)]
    clicked = clicked["item"][clicked["clicks"] > 0] + CATEGORIES * QUERIES
    assert exam.right[0] == set(clicked)


def test_true_categories_score_higher_than_shuffled_ones(known):
    exam, shown = (
        granularity.make_exam(known),
        granularity.Shown.of(known.features),
    )
    truth = np.unique(known.samples["truth"], return_inverse=True)[1]
    right = granularity.identical_at_1(shown, truth, exam, QUICK)
    shuffled = np.random.default_rng(0).permutation(truth)
    wrong = granularity.identical_at_1(shown, shuffled, exam, QUICK)
    assert right > wrong + 0.1
    nothing = np.full(len(truth), -1)
    assert granularity.identical_at_1(shown, nothing, exam, QUICK) is None


def test_pairs_share_a_category():
    labels = np.array([0, 1, 1, 2, -1, 0, 1, 1, -1, 3])
    is_query = np.arange(10) < 5
    queries, items = granularity.pairs(labels, is_query, seed=0)
    assert queries.tolist() == [0, 1, 2]
    assert (labels[queries] == labels[items]).all()
    assert not is_query[items].any()
    drawn = {
        tuple(granularity.pairs(labels, is_query, seed)[1])
        for seed in range(20)
    }
    assert len(drawn) == 4


def test_measure_covers_the_grid_and_the_settings_in_use(known, own_shop):
    result = granularity.measure(known, (0.95,), (4,), QUICK)
    (finer,), used = result["points"], result["used"]
    assert (finer["threshold"], finer["neighbors"]) == (0.95, 4)
    assert used["categories"] > 0
    assert used["bcubed_f1"] > finer["bcubed_f1"]
    assert used["noise_share"] < finer["noise_share"]
    assert 0 < used["identical_at_1"] <= 1
    assert 0 < result["true_categories"] <= 1
    path = granularity.write(result, own_shop)
    assert json.loads(path.read_text()) == result
    lines = granularity.lines(result).splitlines()
    assert len(lines) == 3
    assert any(line.startswith("     0.95          4") for line in lines)
    assert sum(line.endswith(" in use") for line in lines) == 1


def test_nothing_to_measure_raises_an_error(shop, own_shop):
    (own_shop / "log" / "clicks_later.csv").unlink()
    found = outcome.read(own_shop, own_shop / "log")
    with pytest.raises(UserError, match="nothing to measure retrieval on"):
        granularity.measure(found)
    (own_shop / "features.npz").unlink()
    with pytest.raises(UserError, match="no features for these samples"):
        granularity.measure(outcome.read(own_shop, own_shop / "log"))
