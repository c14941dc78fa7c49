"""Escapes control characters of user text in messages."""

import re

# Control characters except tab and newline, line separators, characters that
# change the direction of text, and surrogates (from file names that are not
# UTF-8).
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Returns a text with its control characters escaped, except newlines.

    Use `one_line` or `repr` for values that must not contain newlines, such as
    cells and file names.

    >>> print(printable("red \x1b[31mtext\r"))
    red \x1b[31mtext\r
    """
    return _ACTIVE.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text
    )


def one_line(text: str) -> str:
    r"""Returns a text with its control characters escaped, including newlines.

    >>> print(one_line("a.png\nWrote everything"))
    a.png\nWrote everything
    """
    return printable(text).replace("\n", r"\n")
