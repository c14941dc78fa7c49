"""User text in messages: nothing in it may act on the terminal."""

import re

# Control characters but tab and newline, line separators, characters that
# reverse the direction of text, and surrogates (bytes of file names that are
# not UTF-8).
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Returns a text with an escape for each character that would not print.

    Lines stay lines. A value in which a newline would forge a line of its own
    (a cell, a file name) goes through `one_line`, or is quoted by `repr`, as in
    `{value!r}`.

    >>> print(printable("red \x1b[31mtext\r"))
    red \x1b[31mtext\r
    """
    return _ACTIVE.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text
    )


def one_line(text: str) -> str:
    r"""Returns a text as `printable` does, and with escapes for its newlines.

    >>> print(one_line("a.png\nWrote everything"))
    a.png\nWrote everything
    """
    return printable(text).replace("\n", r"\n")
