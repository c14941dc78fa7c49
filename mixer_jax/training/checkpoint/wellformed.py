"""Validation of the JSON files that training writes to a workdir."""

import json
import sys
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.config import places, ranges

# Entries that training reads from an origin, and their required keys.
_REQUIRED_KEYS = {
    "split": ("samples", "rows"),
    "trained": ("samples", "rows", "images", "sizes"),
    "folders": (),
    "init_from": ("run", "step"),
    "places": (),
}


def is_of_a_run(text: bytes) -> bool:
    """Returns whether a config.json may belong to a run.

    Models of other libraries also have a config.json.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "head" in content


def is_config(values: dict[str, Any]) -> bool:
    """Returns whether sections and values have the types of the defaults.

    Raises:
      UserError: if a number is out of range; names the key and valid numbers.
    """
    default = config_lib.defaults()

    def fits(value: Any, like: Any) -> bool:
        if not isinstance(like, ConfigDict):
            # In JSON, tuples are lists, and whole floats may be integers.
            kinds = {tuple: {list}, float: {int, float}}
            return type(value) in kinds.get(type(like), {type(like)}) and (
                _is_number(value)
                if isinstance(value, int | float)
                else not isinstance(value, str) or _is_text(value)
            )
        return isinstance(value, dict) and all(
            "." not in key and (key not in like or fits(value[key], like[key]))
            for key in value
        )

    if not fits(values, default):
        return False
    # Keys added by later versions take their defaults.
    ranges.check(config_lib.flatten(default) | config_lib.flatten(values))
    return True


def _is_number(value: float) -> bool:
    """Returns whether a float is finite, or an integer fits in 64 bits."""
    limit = sys.maxsize if isinstance(value, int) else sys.float_info.max
    return abs(value) <= limit


def _is_text(value: str) -> bool:
    """Returns whether a string may be a path or a name."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def is_origin(origin: dict[str, Any]) -> bool:
    """Returns whether the entries read from an origin are valid."""
    for name, keys in _REQUIRED_KEYS.items():
        part = origin.get(name, {})
        if part is None and keys:
            continue  # The entry was not recorded.
        if not isinstance(part, dict) or (part and not part.keys() >= {*keys}):
            return False
    return all(map(_is_place, origin.get("places", {}).values()))


def _is_place(place: Any) -> bool:
    if not (isinstance(place, dict) and place.keys() >= {"given", "absolute"}):
        return False
    return all(isinstance(value, str) for value in place.values()) and all(
        _is_text(path)
        for key, value in place.items()
        for path in (value.split("\0") if key == places.EARLIER else [value])
    )
