"""Probabilities fitted to the answers of simulated searches."""

import itertools

import numpy as np
import pytest

from mixer_jax.retrieval import calibration
from mixer_jax.retrieval.calibration import Calibration, Curve
from mixer_jax.runtime.errors import UserError


def tally(cosines, right, categories=None, documents=10):
    made = calibration.Tally()
    if categories is None:
        categories = np.arange(len(cosines))
    cosines = np.asarray(cosines, np.float64)
    made.add(categories, cosines, np.asarray(right, bool), documents=documents)
    return made


def simulated(queries, seed=0, answers=5):
    """Returns a tally, and the probabilities that it was drawn from."""
    rng = np.random.default_rng(seed)
    cosines = np.sort(rng.uniform(0.2, 0.95, (queries, answers)), axis=1)
    cosines = cosines[:, ::-1]
    right = rng.random(cosines.shape) < true_probability(cosines)
    return tally(cosines, right)


def true_probability(cosines):
    return 1 / (1 + np.exp(-20 * (cosines - 0.7)))


def best_monotone_map(shares, weights):
    """Returns the best of all increasing, piecewise constant maps."""
    count, best = len(shares), (np.inf, None)
    for cuts in itertools.product((False, True), repeat=count - 1):
        runs = np.cumsum((0, *cuts))
        totals = np.bincount(runs, weights)
        values = (np.bincount(runs, weights * shares) / totals)[runs]
        if (np.diff(values) >= 0).all():
            loss = (weights * (values - shares) ** 2).sum()
            best = min(best, (loss, values), key=lambda one: one[0])
    return best[1]


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_best_of_all_monotone_ones(seed):
    rng = np.random.default_rng(seed)
    counts = np.zeros((2001, 2), np.int64)
    places = np.sort(rng.choice(2001, 9, replace=False))
    counts[places] = rng.integers(0, 5, (9, 2)) + [[1, 0]]
    curve = calibration._curve(counts)
    smoothed = counts[places] + 0.0
    smoothed[0, 1] += 1
    smoothed[-1, 0] += 1
    weights = smoothed.sum(axis=1)
    expected = best_monotone_map(smoothed[:, 1] / weights, weights)
    at = (places - 1000) / 1000
    found = curve(at)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_calibration_finds_the_probabilities_of_its_answers():
    fitted = calibration.fit(simulated(100_000), 7)
    # Few nearest answers are far, and few others are near.
    for curve, ends in (
        (fitted.nearest, (0.7, 0.95)),
        (fitted.others, (0, 0.9)),
    ):
        cosines = np.linspace(*ends, 30)
        expected = true_probability(cosines)
        np.testing.assert_allclose(curve(cosines), expected, atol=0.05)
        assert (np.diff(curve(np.linspace(-1, 1, 500))) >= 0).all()
        # Cosines outside those seen have the nearest probability.
        assert curve(-1) == curve.probabilities[0]
        assert curve(1) == curve.probabilities[-1]
    assert fitted.error < 0.01
    assert fitted.first_error < 0.02
    assert (fitted.queries, fitted.documents, fitted.step) == (100_000, 10, 7)


def test_the_nearest_answer_has_a_map_of_its_own():
    """Here, nearest answers are right, and others at equal cosines wrong."""
    rng = np.random.default_rng(0)
    cosines = np.sort(rng.uniform(0.4, 0.6, (500, 5)), axis=1)[:, ::-1]
    right = np.zeros(cosines.shape, bool)
    right[:, 0] = True
    fitted = calibration.fit(tally(cosines, right), 0)
    first, *others = fitted.rate([0.5, 0.5, 0.4])
    assert first == pytest.approx(501 / 502, abs=1e-6)
    assert others == pytest.approx([1 / 2002] * 2, abs=1e-6)
    # On a later page, no answer is the nearest one.
    assert fitted.rate([0.5], 1) == pytest.approx([1 / 2002], abs=1e-6)
    assert fitted.error < 0.01
    assert fitted.first_error < 0.01
    assert fitted.rate([]).shape == (0,)


def test_probabilities_never_increase_with_the_rank():
    low, high = Curve((0.0,), (0.2,)), Curve((0.0, 1.0), (0.1, 0.9))
    crossing = Calibration(low, high, 100, 9, 0.1, 0.1, 1)
    assert crossing.rate([0.9, 0.8, 0.0]).tolist() == [0.2, 0.2, 0.1]


def test_the_error_is_measured_on_queries_that_are_not_fitted():
    """The categories of one fold are all right, those of others all wrong."""
    categories = np.arange(200)
    right = (categories % 5 == 0)[:, None]
    found = calibration.fit(tally(right * 0 + 0.5, right, categories), 0)
    # Each fit adds two answers. The fit without the first fold predicts 1/162,
    # and the others 41/162, which are in different bins.
    expected = 0.2 * (1 - 1 / 162) + 0.8 * 41 / 162
    assert found.error == pytest.approx(expected, abs=1e-6)
    assert found.first_error == found.error


def test_equal_cosines_have_one_probability():
    right = np.arange(150)[:, None] % 3 == 0
    fitted = calibration.fit(tally(np.full((150, 1), 0.4), right), 0)
    assert fitted.nearest == ((0.4,), (round(51 / 152, 6),))


@pytest.mark.parametrize("is_right", [False, True])
def test_no_probability_is_0_or_1_if_all_answers_agree(is_right):
    cosines = np.linspace(0.1, 0.9, 200)[:, None]
    fitted = calibration.fit(tally(cosines, np.full((200, 1), is_right)), 0)
    # A right and a wrong answer are added.
    expected = 201 / 202 if is_right else 1 / 202
    found = fitted.nearest.probabilities
    assert found == pytest.approx([expected] * 2, abs=1e-6)
    assert fitted.error < 0.02


@pytest.mark.parametrize(("queries", "categories"), [(99, 99), (200, 4)])
def test_too_few_queries_are_refused(queries, categories):
    few = tally(
        np.full((queries, 1), 0.5),
        np.ones((queries, 1)),
        np.arange(queries) % categories,
    )
    with pytest.raises(UserError, match="at least 100 queries of at least 5"):
        calibration.fit(few, 0)
    assert calibration.try_fit(few, 0) is None


def test_a_large_error_of_nearest_answers_causes_a_warning():
    fitted = calibration.fit(simulated(200), step=0)
    assert fitted._replace(first_error=0.1).warning() == ""
    warning = fitted._replace(first_error=0.234).warning()
    assert "are off by 23% on average" in warning
    assert "more queries, from more categories" in warning


def test_absent_answers_are_not_counted():
    made = calibration.Tally()
    cosines = np.array([[0.9, -np.inf], [0.8, 0.1]])
    exists = np.array([[True, False], [True, True]])
    right = np.array([[True, False], [False, False]])
    made.add(np.array([0, 6]), cosines, right, documents=2, exists=exists)
    assert made.answers.sum() == 3
    assert made.answers[0, 0, 1900].tolist() == [0, 1]  # 0.9, right
    assert made.answers[1, 0, 1800].tolist() == [1, 0]
    assert made.answers[1, 1, 1100].tolist() == [1, 0]
    assert (made.queries, made.documents) == (2, 4)


def test_tallies_add_up():
    one, other = simulated(60, seed=1), simulated(70, seed=2)
    both = calibration.merge([one, other])
    assert (both.answers == one.answers + other.answers).all()
    assert (both.queries, both.documents) == (130, 1300)
    assert (one.collect().answers == one.answers).all()
    assert one.collect().queries == 60
    # With several processes, one of them may have no queries.
    assert not calibration.Tally().collect().answers.any()


def test_a_calibration_survives_a_round_trip():
    fitted = calibration.fit(simulated(200), 3)
    assert calibration.loads(fitted.dumps()) == fitted
    assert "200 queries of a catalog of 10 documents" in str(fitted)


@pytest.mark.parametrize(
    "change",
    [
        {"nearest": [[], []]},
        {"nearest": [[0.5, 0.5], [0.1, 0.2]]},
        {"others": [[0.1, 0.5], [0.2, 0.1]]},
        {"nearest": [[0.1], [1.5]]},
        {"nearest": [[0.1], [float("nan")]]},
        {"nearest": [[0.1]]},
        {"queries": None},
        {"surprise": 1},
    ],
)
def test_a_damaged_calibration_is_refused(change):
    good = calibration.fit(simulated(200), 3)._asdict()
    with pytest.raises((KeyError, TypeError, ValueError)):
        calibration.parse(good | change)
    rows = [{"calibration": good | change}]
    with pytest.raises(UserError, match=r"damaged .*evaluate the model again"):
        calibration.choose(rows, 3)


def test_the_largest_calibration_of_the_step_is_chosen():
    made = calibration.fit(simulated(200), 3)
    rows = [
        {"calibration": made._replace(queries=q, documents=d, step=s)._asdict()}
        for q, d, s in ((150, 9, 3), (300, 5, 3), (300, 8, 3), (400, 9, 2))
    ]
    chosen = calibration.choose([{}, {"calibration": None}, *rows], 3)
    assert (chosen.queries, chosen.documents) == (300, 8)
    assert calibration.choose(rows, 1) is None
