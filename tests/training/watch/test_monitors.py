"""Each monitor fires in a bad state and not in a good one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.watch import monitors


def limits(**changes):
    config = config_lib.defaults().monitors
    config.update(changes)
    return config


def proxies(rows=64, dim=16):
    """Returns random proxies; rows from 60 on are padding."""
    made = jax.random.normal(jax.random.key(0), (rows, dim))
    return made.at[60:].set(0.0)


def proxy_figures(array):
    figures = jax.jit(monitors.proxy_figures, static_argnums=2)(
        array, jax.random.key(1), 60
    )
    return {name: float(value) for name, value in figures.items()}


def concept_figures(concepts, slots, has_text):
    figures = jax.jit(monitors.concept_figures)(concepts, slots, has_text)
    return {name: float(value) for name, value in figures.items()}


def signs(figures, **changes):
    alarms = monitors.Monitors(limits(**changes), 1000).check(10, figures)
    return [alarm.sign for alarm in alarms]


def test_spread_proxies_raise_no_alarm():
    figures = proxy_figures(proxies())
    assert abs(figures["proxy_cosine"]) < 0.05
    assert figures["effective_rank"] > 0.8
    assert figures["norm_ratio"] < 3
    assert signs(figures) == []


def test_collapsed_proxies_raise_an_alarm():
    figures = proxy_figures(proxies() * 0.01 + jnp.ones((1, 16)))
    assert figures["proxy_cosine"] > 0.99
    assert signs(figures) == ["proxy_cosine", "effective_rank"]


def test_proxy_cosine_is_the_off_diagonal_mean():
    array = np.asarray(proxies())[:60]
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    cosines = unit @ unit.T
    want = (cosines.sum() - 60) / (60 * 59)
    got = proxy_figures(proxies())["proxy_cosine"]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_low_rank_proxies_raise_an_alarm():
    flat = jnp.zeros((64, 16)).at[:, 0].set(jnp.tile(jnp.array([1, -1]), 32))
    figures = proxy_figures(flat)
    np.testing.assert_allclose(figures["effective_rank"], 1 / 16, rtol=1e-2)
    assert signs(figures) == ["effective_rank"]


def test_exploding_norm_raises_an_alarm():
    figures = proxy_figures(proxies().at[3].multiply(100.0))
    assert figures["norm_ratio"] > 50
    assert signs(figures) == ["norm_ratio"]


def test_padding_rows_are_ignored():
    figures = proxy_figures(proxies().at[62].set(1e6))
    assert figures["norm_ratio"] < 3


def test_varied_concepts_raise_no_alarm():
    concepts = jax.random.normal(jax.random.key(0), (32, 16))
    slots = jnp.full((32, 8), 1 / 8)
    figures = concept_figures(concepts, slots, jnp.ones((32,), bool))
    np.testing.assert_allclose(figures["slot_entropy"], 1.0, rtol=1e-5)
    np.testing.assert_allclose(
        figures["concept_variance"], np.var(concepts, axis=0).mean(), rtol=1e-5
    )
    assert signs(figures) == []


def test_constant_concepts_in_one_slot_raise_alarms():
    concepts = jnp.ones((32, 16))
    slots = jnp.zeros((32, 8)).at[:, 2].set(1.0)
    figures = concept_figures(concepts, slots, jnp.ones((32,), bool))
    assert signs(figures) == ["concept_variance", "slot_entropy"]


def test_documents_without_text_are_ignored():
    concepts = jnp.ones((32, 16)).at[::2].set(-5.0)
    has_text = jnp.arange(32) % 2 == 1
    slots = jnp.full((32, 8), 1 / 8)
    figures = concept_figures(concepts, slots, has_text)
    assert figures["concept_variance"] == 0.0


def test_batch_without_texts_raises_no_alarm():
    figures = concept_figures(
        jnp.zeros((4, 2)), jnp.zeros((4, 3)), jnp.zeros((4,), bool)
    )
    assert np.isnan(figures["concept_variance"])
    assert signs(figures) == []


@pytest.mark.parametrize(("recall", "fired"), [(0.2, True), (0.9, False)])
def test_active_recall(recall, fired):
    assert signs({"active_recall": recall}) == ["active_recall"] * fired


@pytest.mark.parametrize(
    ("losses", "step", "fired"),
    [
        (np.full(20, 5.0), 100, True),  # flat and early
        (np.full(20, 5.0), 900, False),  # late: the run is about to end
        (np.linspace(5, 3, 20), 100, False),  # falling
        (np.r_[5.0, np.full(20, 1.0)], 100, False),  # already low
        (np.full(10, 5.0), 100, False),  # the window is not full yet
    ],
)
def test_plateau(losses, step, fired):
    watch = monitors.Monitors(limits(plateau_window=20), 1000)
    for loss in losses:
        watch.record_loss(float(loss))
    alarms = watch.check(step, {})
    assert [a.sign for a in alarms] == ["plateau"] * fired


def test_alarm_repeats_only_after_recovery():
    watch = monitors.Monitors(limits(), 1000)
    bad, good = {"norm_ratio": 99.0}, {"norm_ratio": 1.0}
    counts = [len(watch.check(1, f)) for f in (bad, bad, good, bad)]
    assert counts == [1, 0, 0, 1]


def test_alarm_states_figure_and_remedy():
    (alarm,) = monitors.Monitors(limits(), 10).check(1, {"norm_ratio": 99.0})
    assert "99" in alarm.text
    assert "proxies.learning_rate" in alarm.text


def test_on_failure_raise_raises_an_error():
    watch = monitors.Monitors(limits(on_failure="raise"), 1000)
    watch.check(1, {"norm_ratio": 1.0})
    with pytest.raises(monitors.MonitorError, match=r"99.*step 2"):
        watch.check(2, {"norm_ratio": 99.0})
