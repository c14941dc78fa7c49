"""Calibration of simulated logs to given numbers of right and wrong clicks.

Dropping clicks at random is equivalent to lower attractions, so the result is
still a log that `simulate` could have drawn.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mixer_jax.runtime.errors import UserError

_PILOT = 4.0  # searches per query image, to estimate the clicks per search
_SURPLUS = 1.1


def calibrate(
    draw: Callable[[float], pd.DataFrame],
    is_right: Callable[[pd.DataFrame], np.ndarray],
    searches: float,
    clicks: int,
    wrong: float | None,
    seed: int,
) -> pd.DataFrame:
    """Draws a log and drops clicks at random to reach the requested numbers.

    Args:
      draw: maps the mean number of searches per query image to a log with the
        columns exposures and clicks.
      is_right: maps a log to a bool for each row.
      searches: mean number of searches per query image, used if `clicks` is 0.
      clicks: approximate number of clicks; 0 to use `searches`.
      wrong: share of wrong clicks; None for no change.
      seed: seed for the dropped clicks.

    Raises:
      UserError: if the requested numbers cannot be reached.
    """
    if clicks < 0 or (wrong is not None and not 0 <= wrong < 1):
        raise UserError(
            f"A log of {clicks} clicks with a share of {wrong} wrong clicks "
            "cannot be simulated; clicks must be at least 0, and the share "
            "must be at least 0 and less than 1."
        )
    if clicks:
        pilot = draw(_PILOT)
        counts = _counts(pilot, is_right(pilot)) / _PILOT
        share = counts[1] / counts.sum() if wrong is None else wrong
        wanted = clicks * np.array([1 - share, share])
        if (counts[wanted > 0] == 0).any():
            raise UserError(
                "The first simulated searches produced no right clicks or no "
                "wrong clicks, but the log needs them; the table is too small "
                "for such a log."
            )
        searches = float(np.max(wanted / np.maximum(counts, 1e-9))) * _SURPLUS
    log = draw(searches)
    right = is_right(log)
    counts = _counts(log, right)
    if not clicks:
        # Keep as many clicks as the share of wrong clicks allows.
        limits = counts / np.maximum([1 - wrong, wrong], 1e-9)
        wanted = limits[[1 - wrong > 0, wrong > 0]].min() * np.array(
            [1 - wrong, wrong]
        )
    kept = np.minimum(wanted / np.maximum(counts, 1), 1.0)
    rng = np.random.default_rng([seed, 1])
    drawn = rng.binomial(log["clicks"], np.where(right, kept[0], kept[1]))
    return log.assign(clicks=drawn)


def _counts(log: pd.DataFrame, right: np.ndarray) -> np.ndarray:
    """Returns the numbers of right and wrong clicks, f64 `[2]`."""
    clicks = log["clicks"].to_numpy()
    return np.array([clicks[right].sum(), clicks[~right].sum()], np.float64)
