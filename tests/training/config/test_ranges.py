"""The valid ranges of a config's numbers."""

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults, ranges


def flat(**changes):
    return defaults.flatten(defaults.defaults()) | changes


def test_defaults_are_in_range():
    ranges.check(flat())


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("steps", 1, 0),
        ("monitors.plateau_window", 2, 1),
        ("data.workers", 0, -1),
        ("model.image.chunk", 0, -1),
        ("seed", 2**63 - 1, 2**63),
        ("steps", 2**31 - 1, 2**31),
        ("head.chunk", 2**31 - 1, 10**30),
        ("model.dropout", 0.99, 1.0),
        ("data.max_skipped", 1.0, 1.1),
        ("optimizer.clip_norm", 1e-9, 0.0),
        ("optimizer.learning_rate", 0.0, float("nan")),
    ],
)
def test_limits_are_exact(key, inside, outside):
    ranges.check(flat(**{key: inside}))
    with pytest.raises(UserError, match=f"{key} is "):
        ranges.check(flat(**{key: outside}))
