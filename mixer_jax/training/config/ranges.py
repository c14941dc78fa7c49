"""Valid ranges of the numbers in a config."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_jax.runtime.errors import UserError

# Minimum, exclusive maximum, and the keys.
_RANGES: tuple[tuple[float, float, Sequence[str]], ...] = (
    (
        1,
        math.inf,
        (
            "steps",
            "log_every",
            "head.refresh",
            "checkpoint.every",
            "checkpoint.keep",
            "evaluate.batch_size",
            "evaluate.baseline_steps",
            "monitors.every",
            "optimizer.max_skipped",
            "data.image_size",
            "data.text_length",
            "data.max_pixels",
            "model.dim",
            "model.hidden",
            "model.slots",
        ),
    ),
    (2, math.inf, ("monitors.plateau_window",)),  # a slope needs two losses
    (
        0,
        math.inf,
        (
            "data.threads",
            "data.workers",
            "head.margin_power",
            "model.image.chunk",
            "optimizer.learning_rate",
            "optimizer.weight_decay",
            "proxies.imprint_samples",
            "proxies.learning_rate",
            "proxies.max_norm",
            "proxies.weight_decay",
        ),
    ),
    (0, 2**63, ("seed",)),
)
_SHARES = (  # below 1, which would leave nothing or divide by zero
    "model.dropout",
    "model.drop_image",
    "model.drop_text",
    "model.image.dropout",
    "model.image.drop_path",
    "model.text.dropout",
    "optimizer.average",
    "proxies.momentum",
)
_LONG = ("seed", "data.max_pixels")  # all other whole numbers are int32


def check(flat: Mapping[str, Any]) -> None:
    """Checks the numbers of one stage's config, given by dotted key.

    Raises:
      UserError: if a number is out of range; names the key, its value and
        the valid range.
    """
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise _error(flat, key, "finite")
        if isinstance(value, int) and value >= 2**31 and key not in _LONG:
            raise _error(flat, key, f"below {2**31}")
    for minimum, end, keys in _RANGES:
        for key in keys:
            if flat[key] < minimum:
                raise _error(flat, key, f"{minimum} or more")
            if flat[key] >= end:
                raise _error(flat, key, f"below {end}")
    for key in _SHARES:
        if not 0 <= flat[key] < 1:
            raise _error(flat, key, "at least 0 and less than 1")
    for key in ("data.max_skipped", "optimizer.warmup"):
        if not 0 <= flat[key] <= 1:
            raise _error(flat, key, "a share, from 0 to 1")
    if flat["optimizer.clip_norm"] <= 0:
        valid = "above 0; 1e9 practically disables clipping"
        raise _error(flat, "optimizer.clip_norm", valid)


def _error(flat: Mapping[str, Any], key: str, valid: str) -> UserError:
    return UserError(f"{key} is {flat[key]}; it must be {valid}.")
