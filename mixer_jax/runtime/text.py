"""Escapes and shortens user text in messages."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters except tab and newline, line separators, characters that
# change the direction of text, and surrogates (from file names that are not
# UTF-8).
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)
_MAX_CHARACTERS = 200  # maximum length of a cell in a message, or of a name
LISTED = 10  # maximum number of columns, cells or rows in a message


def printable(text: str) -> str:
    r"""Returns the text with control characters, except newlines, escaped.

    Use `one_line` or `repr` for values that must not contain newlines, such as
    cells and file names.

    >>> print(printable("red \x1b[31mtext\r"))
    red \x1b[31mtext\r
    """
    return _ACTIVE.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text
    )


def one_line(text: str) -> str:
    r"""Returns the text with control characters, including newlines, escaped.

    >>> print(one_line("a.png\nWrote everything"))
    a.png\nWrote everything
    """
    return printable(text).replace("\n", r"\n")


def quoted(cell: Any) -> str:
    """Returns the `repr` of a cell or a name, shortened in the middle.

    >>> print(quoted("cat 0"))
    'cat 0'
    """
    text = cell if isinstance(cell, str) else str(cell)
    if len(text) <= _MAX_CHARACTERS:
        return repr(cell)
    half = _MAX_CHARACTERS // 2
    return f"{text[:half]!r}...{text[-half:]!r} ({len(text):,} characters)"


def counted(count: int, noun: str) -> str:
    """Returns a number and a noun with a regular plural.

    >>> print(counted(1, "row"), counted(1000, "row"))
    1 row 1,000 rows
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listing(names: Sequence[str]) -> str:
    """Returns at most ten names, quoted and separated by commas."""
    shown = ", ".join(map(quoted, names[:LISTED]))
    more = len(names) - LISTED
    return f"{shown} and {more:,} more" if more > 0 else shown


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Returns the known names that are most similar to a mistyped name.

    Case, outer whitespace, and "-" instead of "_" make no difference.

    Args:
      name: the mistyped name.
      known: the known names.
      count: the maximum number of names.

    Returns:
      The names, the most similar first; none if no name is similar.
    """
    plain = {_plain(other): other for other in known}
    # The time of the comparison grows with the length.
    short = _plain(name[:_MAX_CHARACTERS])
    near = difflib.get_close_matches(short, plain, count)
    return [plain[other] for other in near]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a clause that suggests a known name; "" if none is similar.

    >>> print("unknown role 'querry'" + did_you_mean("querry", ["query"]))
    unknown role 'querry'; did you mean 'query'?
    """
    return "".join(f"; did you mean {x!r}?" for x in nearest(name, known))


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")
