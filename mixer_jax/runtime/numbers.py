"""Argument types for numeric command-line options, each with its range."""

import argparse
import math
from collections.abc import Callable

from mixer_jax.runtime.text import quoted

_INT64 = 2**63  # the smallest positive integer too large for int64


def whole(
    minimum: float, maximum: float = math.inf
) -> Callable[[str], int | float]:
    """Returns an argument type for integers in a range."""
    return lambda text: _read(text, int, minimum, maximum)


def number(
    minimum: float, maximum: float = math.inf
) -> Callable[[str], int | float]:
    """Returns an argument type for finite numbers in a range."""
    return lambda text: _read(text, float, minimum, maximum)


share = number(0, 1)  # a fraction, as for --max-skipped
batch_size = whole(1, 65_536)  # bounded to limit memory


def _read(text: str, kind: type, minimum: float, maximum: float) -> int | float:
    """Reads a number; raises `ArgumentTypeError` if it is out of range."""
    limit = _INT64 if kind is int else math.inf
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if minimum <= value <= maximum and abs(value) < limit:
        return value
    noun = "a whole number" if kind is int else "a number"
    to = f"from {minimum:g} to {maximum:g}"
    if maximum == math.inf:
        to = f"of {minimum:g} or more"
    if minimum == -math.inf:
        to = "" if kind is float else "of at most 18 digits"
    message = f"{quoted(text)} is not {noun} {to}".rstrip()
    raise argparse.ArgumentTypeError(message)
