"""Types of numeric command-line options, each with its range."""

import argparse
import math
from collections.abc import Callable

from mixer_jax.runtime.text import quoted

_INT64 = 2**63  # no larger whole number fits into an array


def whole(
    minimum: float, maximum: float = math.inf
) -> Callable[[str], int | float]:
    """Returns the type of options that are whole numbers in a range."""
    return lambda text: _read(text, int, minimum, maximum)


def number(
    minimum: float, maximum: float = math.inf
) -> Callable[[str], int | float]:
    """Returns the type of options that are finite numbers in a range."""
    return lambda text: _read(text, float, minimum, maximum)


def share(text: str) -> int | float:
    """Reads a share, such as --max-skipped: a number from 0 to 1."""
    return _read(text, float, 0, 1)


def batch_size(text: str) -> int | float:
    """Reads a batch size: a whole number whose arrays fit into memory."""
    return _read(text, int, 1, 65_536)


def _read(text: str, kind: type, minimum: float, maximum: float) -> int | float:
    """Raises `ArgumentTypeError` unless the text is a number in the range."""
    limit = _INT64 if kind is int else math.inf
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if minimum <= value <= maximum and abs(value) < limit:
        return value
    what = "a whole number" if kind is int else "a number"
    to = f"from {minimum:g} to {maximum:g}"
    if maximum == math.inf:
        to = f"of {minimum:g} or more"
    if minimum == -math.inf:
        to = "" if kind is float else "of at most 18 digits"
    said = f"{quoted(text)} is not {what} {to}".rstrip()
    raise argparse.ArgumentTypeError(said)
