import numpy as np
import pytest
from scipy.special import expit

from mixer_jax.categories.evidence import affinity, graph


def _pairs(first, second, kind, content, exposures=0, clicks=0):
    size = len(first)
    wide = np.full((size, 4), np.nan, np.float32)
    wide[:, : np.shape(content)[1]] = content
    return graph.Pairs(
        np.array(first),
        np.array(second),
        np.broadcast_to(np.array(kind, np.int8), size),
        wide,
        np.broadcast_to(np.array(exposures), size),
        np.broadcast_to(np.array(clicks), size),
    )


def test_fit_recovers_the_rates():
    rng = np.random.default_rng(0)
    right = rng.random(20000) < 0.1
    rate = np.where(right, rng.beta(4, 6, 20000), rng.beta(0.5, 20, 20000))
    exposures = rng.integers(1, 40, 20000)
    clicks = rng.binomial(exposures, rate)
    rates = affinity.fit_rates(exposures, clicks)
    mean = [a / (a + b) for a, b in (rates.right, rates.wrong)]
    assert mean == pytest.approx([0.4, 0.5 / 20.5], abs=0.05)
    assert rates.share == pytest.approx(0.1, abs=0.03)


def test_few_clicks_give_the_default_rates():
    few = np.arange(1, 50)
    assert affinity.fit_rates(few, few) == affinity.Rates()


def test_log_odds_increase_with_clicks_and_equal_the_prior_without():
    rates = affinity.Rates()
    odds = affinity.log_odds(np.full(5, 10), np.array([0, 1, 3, 6, 10]), rates)
    assert (np.diff(odds) > 0).all()
    nothing = affinity.log_odds(np.zeros(1), np.zeros(1), rates)
    np.testing.assert_allclose(expit(nothing), rates.share)


def test_a_better_match_lowers_other_affinities():
    pairs = _pairs([0, 0, 1], [2, 3, 3], 0, np.zeros((3, 2)), 100, [50, 20, 2])
    got = affinity.click_affinity(pairs, 4, affinity.Rates())
    assert got[0] > 0.95
    assert got[1] < 0.5 * got[0]
    only = affinity.click_affinity(
        pairs.where(np.array([False, True, True])), 4, affinity.Rates()
    )
    assert only[0] > 2 * got[1]


def test_samples_clicked_alike_agree():
    # Queries 0 to 2; items 3 and 4 are clicked for all, 5 for hardly any.
    first, second = np.repeat([0, 1, 2], 3), np.tile([3, 4, 5], 3)
    clicked = np.tile([0.9, 0.8, 0.02], 3)
    pairs = _pairs(first, second, 0, np.zeros((9, 2)), 10, 1)
    ties = _pairs([3, 3], [4, 5], 1, np.zeros((2, 2)))
    both = graph.Pairs(
        *(
            np.concatenate([getattr(pairs, name), getattr(ties, name)])
            for name in ("first", "second", "kind", "content")
        ),
        np.concatenate([pairs.exposures, ties.exposures]),
        np.concatenate([pairs.clicks, ties.clicks]),
    )
    agree, heard = affinity.same_role_evidence(
        both, np.concatenate([clicked, [0, 0]]), 6
    )
    assert not agree[:9].any()
    assert not heard[:9].any()
    ratio = agree[9:] / heard[9:]
    assert ratio[0] == pytest.approx(0.9 * 0.8 / 0.81)
    assert ratio[1] < 0.05


@pytest.mark.parametrize("matters", [True, False])
def test_content_is_calibrated_on_clicks(matters):
    rng = np.random.default_rng(1)
    cosine = rng.random(2000)
    pairs = _pairs(
        np.arange(2000), np.arange(2000) + 2000, 1, np.stack([cosine] * 2, 1)
    )
    same = cosine > 0.7 if matters else rng.random(2000) < 0.1
    odds, base = affinity.content_log_odds(
        pairs, same.astype(float), np.ones(2000)
    )
    span = odds[cosine > 0.9].mean() - odds[cosine < 0.1].mean()
    if matters:
        assert span > 4
    else:
        assert abs(span) < 1
        # Half of the matching same-role pairs have equal clicks.
        assert expit(base[0]) == pytest.approx(2 * same.mean())


def test_the_calibration_curve_need_not_be_monotonic():
    rng = np.random.default_rng(2)
    cosine = np.concatenate([rng.random(4000), np.ones(1000)])
    pairs = _pairs(
        np.arange(5000), np.arange(5000) + 5000, 1, np.stack([cosine] * 2, 1)
    )
    # Half of the copies and of the distant pairs have equal clicks, but few of
    # the similar pairs do.
    chance = np.where((cosine < 0.7) | (cosine == 1.0), 0.5, 0.05)
    target = (rng.random(5000) < chance).astype(float)
    odds, base = affinity.content_log_odds(pairs, target, np.ones(5000))
    sure = expit(odds + base)
    assert sure[cosine == 1.0].min() > 0.9
    assert sure[(cosine > 0.8) & (cosine < 0.95)].mean() < 0.3
    assert sure[cosine < 0.5].mean() > 0.9


def test_untested_content_has_zero_log_odds():
    pairs = _pairs([0, 1], [2, 3], 1, np.array([[0.9, 0.1], [0.1, 0.0]]))
    odds, base = affinity.content_log_odds(pairs, np.zeros(2), np.zeros(2))
    assert odds.tolist() == [0.0, 0.0]
    assert (expit(base) < 0.05).all()
