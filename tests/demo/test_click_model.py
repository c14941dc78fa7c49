import dataclasses

import numpy as np
import pandas as pd

from mixer_jax.demo import click_model

SETTINGS = click_model.Simulation(searches=50.0)


def _clicks(settings=SETTINGS, count=200, **features):
    names = [f"c{i}" for i in range(count)]
    return click_model.simulate(names, names, settings, **features)


def test_simulated_log_is_consistent():
    clicks = _clicks()
    assert (clicks["clicks"] <= clicks["exposures"]).all()
    assert (clicks["exposures"] > 0).all()
    assert not clicks.duplicated(["query", "item"]).any()


def test_log_is_reproducible_with_the_same_seed():
    pd.testing.assert_frame_equal(_clicks(), _clicks())
    other = _clicks(dataclasses.replace(SETTINGS, seed=1))
    assert not _clicks().equals(other)


def test_right_items_are_clicked_more_often_than_wrong_ones():
    clicks = _clicks()
    right = clicks["query"] == clicks["item"]
    rate = clicks["clicks"].sum() / clicks["exposures"].sum()
    own = clicks[right].sum()
    other = clicks[~right].sum()
    assert own["clicks"] / own["exposures"] > 2 * rate
    assert 0 < other["clicks"] / other["exposures"] < rate


def test_some_items_are_rarely_or_never_shown():
    few = dataclasses.replace(SETTINGS, never_shown=0.2, rarely_shown=0.2)
    shown = _clicks(few).groupby("item")["exposures"].sum()
    shown = shown.reindex(range(200), fill_value=0).to_numpy()
    assert 40 <= (shown == 0).sum() <= 50
    assert np.sort(shown)[40:80].mean() < 0.2 * np.sort(shown)[80:].mean()


def test_frequency_is_skewed_by_zipf():
    seen = _clicks().groupby("query")["exposures"].sum()
    flat = _clicks(dataclasses.replace(SETTINGS, query_skew=0.0))
    flat = flat.groupby("query")["exposures"].sum()
    assert seen.max() > 10 * seen.median()
    assert flat.max() < 2 * flat.median()


def test_wrong_clicks_go_to_similar_items():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 8))
    clicks = _clicks(query_features=base, item_features=base)
    wrong = clicks[clicks["query"] != clicks["item"]]
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    cosine = (unit[wrong["query"]] * unit[wrong["item"]]).sum(1)
    near = cosine > 0.5
    rate = wrong["clicks"] / wrong["exposures"]
    assert rate[near].mean() > 1.5 * rate[~near].mean()


def test_position_bias_reduces_clicks_further_down():
    kind = np.ones(8)
    even = click_model._search(
        4000,
        kind,
        np.arange(8.0)[::-1] * 50,
        np.full(8, 0.6),
        SETTINGS,
        np.random.default_rng(0),
    )
    rates = even[1] / even[0]
    wanted = 0.6 * (1.0 + np.arange(8)) ** -SETTINGS.position_bias
    np.testing.assert_allclose(rates, wanted, atol=0.03)
