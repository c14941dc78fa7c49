import numpy as np
import pytest

from mixer_jax.demo import click_model
from mixer_jax.runtime.errors import UserError


def _log(count=300, **settings):
    names = [f"c{i}" for i in range(count)]
    log = click_model.simulate(names, names, click_model.Simulation(**settings))
    right = log["query"] == log["item"]
    return log, log["clicks"][~right].sum() / log["clicks"].sum()


@pytest.mark.parametrize("clicks", [3000, 20000])
@pytest.mark.parametrize("wrong", [0.05, 0.5])
def test_log_has_requested_clicks_and_share_of_wrong_ones(clicks, wrong):
    log, share = _log(clicks=clicks, wrong=wrong)
    assert log["clicks"].sum() == pytest.approx(clicks, rel=0.15)
    assert share == pytest.approx(wrong, abs=0.02)
    assert (log["clicks"] <= log["exposures"]).all()
    assert (log["clicks"] >= 0).all()


def test_number_of_clicks_alone_keeps_the_share():
    # Equal frequencies: with Zipf's law, a few queries would dominate.
    _, natural = _log(query_skew=0.0)
    log, share = _log(query_skew=0.0, clicks=9000)
    assert log["clicks"].sum() == pytest.approx(9000, rel=0.15)
    assert share == pytest.approx(natural, abs=0.03)


def test_share_alone_keeps_the_searches():
    plain, natural = _log()
    log, share = _log(wrong=0.05)
    assert natural > 0.1
    assert share == pytest.approx(0.05, abs=0.01)
    np.testing.assert_array_equal(log["exposures"], plain["exposures"])
    assert (log["clicks"] <= plain["clicks"]).all()


def test_share_of_zero_yields_no_wrong_clicks():
    _, share = _log(wrong=0.0)
    assert share == 0


def test_log_is_reproducible_with_the_same_seed():
    one, _ = _log(clicks=3000, wrong=0.1)
    assert one.equals(_log(clicks=3000, wrong=0.1)[0])
    assert not one.equals(_log(clicks=3000, wrong=0.1, seed=1)[0])


@pytest.mark.parametrize("wanted", [dict(wrong=1.0), dict(clicks=-1)])
def test_impossible_settings_raise_an_error(wanted):
    with pytest.raises(UserError, match="cannot be simulated"):
        _log(**wanted)
