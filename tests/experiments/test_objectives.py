import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.experiments import objectives
from mixer_jax.experiments.objectives import OBJECTIVES, Pairs


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_start_from_their_hyper_parameters(name):
    objective = OBJECTIVES[name]
    rows = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    label = jnp.array([0, 1, 2, 0])
    pairs = Pairs(rows[:4], rows[4:], label, jnp.asarray(rows))
    hyper = objectives.draw(objective.space, 0, 3)
    params = objective.init(rows[:3] if objective.has_classes else None, hyper)
    loss = objective.apply(params, pairs, hyper)
    assert loss.shape == ()
    assert np.isfinite(loss)
    # Aligned pairs have a lower loss.
    aligned = pairs._replace(
        document=rows[:4], outputs=jnp.tile(rows[:4], (2, 1))
    )
    if not objective.has_classes:
        assert objective.apply(params, aligned, hyper) < loss


def test_trials_are_drawn_from_their_ranges():
    space = {**objectives.SHARED, **OBJECTIVES["cosface"].space}
    assert objectives.draw(space, 0, 9) == {
        name: one.default for name, one in space.items()
    }
    drawn = [objectives.draw(space, trial, 9) for trial in range(1, 9)]
    # All methods have the same values of what they share.
    other = objectives.draw(objectives.SHARED, 6, 9)
    assert other.items() <= drawn[5].items()
    for name, one in space.items():
        values = np.array([trial[name] for trial in drawn])
        share = (values - one.low) / (one.high - one.low)
        if one.log:
            share = np.log(values / one.low) / np.log(one.high / one.low)
        # One in each eighth of the range, in some order.
        assert sorted(np.floor(share * 8)) == list(range(8))
        assert list(values) != sorted(values)
