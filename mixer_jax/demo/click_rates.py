"""Brings a simulated log to a wanted number of clicks and share of wrong ones.

A click that is dropped at random is one that the user was less attracted to
make, so the log stays one that `simulate` could have drawn.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mixer_jax.runtime.errors import UserError

_PILOT = 4.0  # searches a query image, from which the clicks of more are told
_SURPLUS = 1.1


def calibrate(
    draw: Callable[[float], pd.DataFrame],
    is_right: Callable[[pd.DataFrame], np.ndarray],
    searches: float,
    clicks: int,
    wrong: float | None,
    seed: int,
) -> pd.DataFrame:
    """Draws a log and drops clicks until their numbers are as wanted.

    Args:
      draw: mean number of searches with a query image -> a log with the columns
        exposures and clicks.
      is_right: a log -> bool for each row.
      searches: where no number of clicks is given.
      clicks: how many there shall be, about; 0 leaves it to the searches.
      wrong: the share of them that shall be wrong; None leaves it.
      seed: of what is dropped.

    Raises:
      UserError: if the numbers cannot be had.
    """
    if clicks < 0 or (wrong is not None and not 0 <= wrong < 1):
        raise UserError(
            f"A log of {clicks} clicks of which a share of {wrong} is wrong "
            "cannot be simulated; give clicks of 0 or more, and a share from 0 "
            "to less than 1."
        )
    if clicks:
        pilot = draw(_PILOT)
        had = _counts(pilot, is_right(pilot)) / _PILOT
        share = had[1] / had.sum() if wrong is None else wrong
        wanted = clicks * np.array([1 - share, share])
        if (had[wanted > 0] == 0).any():
            raise UserError(
                "The first searches of the simulation had no clicks of a kind "
                "that is wanted; the table is too small for such a log."
            )
        searches = float(np.max(wanted / np.maximum(had, 1e-9))) * _SURPLUS
    log = draw(searches)
    right = is_right(log)
    had = _counts(log, right)
    if not clicks:
        # As many as there can be of such a share.
        limits = had / np.maximum([1 - wrong, wrong], 1e-9)
        wanted = limits[[1 - wrong > 0, wrong > 0]].min() * np.array(
            [1 - wrong, wrong]
        )
    kept = np.minimum(wanted / np.maximum(had, 1), 1.0)
    rng = np.random.default_rng([seed, 1])
    drawn = rng.binomial(log["clicks"], np.where(right, kept[0], kept[1]))
    return log.assign(clicks=drawn)


def _counts(log: pd.DataFrame, right: np.ndarray) -> np.ndarray:
    """Right and wrong clicks, f64 `[2]`."""
    clicks = log["clicks"].to_numpy()
    return np.array([clicks[right].sum(), clicks[~right].sum()], np.float64)
