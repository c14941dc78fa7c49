"""Checks that a stage's config has the keys of the defaults, and their types.

A `ConfigDict` accepts any new key, and None for any value, so a misspelled key
in a config file would otherwise have no effect.
"""

import numbers
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as config_lib

# Types of defaults, accepted types and their names. bool comes first because it
# is a subclass of int.
_KINDS = (
    (bool, bool, "true or false"),
    (int, numbers.Integral, "a whole number"),
    (float, numbers.Real, "a number"),
    (str, str, "text"),
    (tuple, tuple | list, "a tuple"),
)


def check(config: ConfigDict) -> None:
    """Checks the keys and types of one stage's config.

    Raises:
      UserError: names the first key that is unknown or missing, or whose type
        differs from its default's.
    """
    known = config_lib.defaults()
    defaults, given = config_lib.flatten(known), config_lib.flatten(config)
    for key in given:  # A value may replace a section: head = None.
        if not any(name.startswith(f"{key}.") for name in defaults):
            config_lib.check_keys(known, [key])
    for key, default in defaults.items():
        if key not in given:
            raise UserError(
                f"The config lacks the key {key!r}; start from "
                "mixer_jax.training.config.defaults.defaults(), which has "
                "all keys."
            )
        _check_type(key, given[key], default)


def _check_type(key: str, value: Any, default: Any) -> None:
    accepted, name = next(
        kind[1:] for kind in _KINDS if isinstance(default, kind[0])
    )
    fits = isinstance(value, accepted)
    if not fits or isinstance(value, bool) != isinstance(default, bool):
        raise UserError(f"{key} is {value!r}; it must be {name}.")
