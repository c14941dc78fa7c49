"""Patterns in a config: regular expressions for parameter paths."""

import re
from collections.abc import Collection, Iterable
from typing import TypeVar

from mixer_jax.runtime.errors import UserError

T = TypeVar("T")


def check(
    key: str, pattern: str, paths: Collection[str], others: Iterable[str] = ()
) -> None:
    """Checks one pattern of a config key.

    Args:
      key: the config key, for messages.
      pattern: the pattern.
      paths: the paths of the model's parameters, joined with "/".
      others: other names that the pattern may match.

    Raises:
      UserError: if it is not a regular expression or matches no path.
    """
    try:
        is_used = any(re.search(pattern, name) for name in (*paths, *others))
    except re.error as error:
        raise UserError(
            f"{key}: '{pattern}' is not a regular expression: {error}."
        ) from error
    if not is_used:
        tops = ", ".join(sorted({path.split("/")[0] for path in paths}))
        raise UserError(
            f"{key}: no parameter path matches '{pattern}'; the model's "
            f"parts are {tops}."
        )


def find(pairs: Iterable[tuple[str, T]], path: str, default: T) -> T:
    """Returns the value of the first pattern found in a path."""
    matching = (value for pattern, value in pairs if re.search(pattern, path))
    return next(matching, default)
