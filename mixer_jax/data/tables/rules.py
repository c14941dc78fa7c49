"""Rules for the columns and rows of sample tables.

The same rules apply to tables in memory (`table.validate`) and to tables
checked batch by batch (`validation.check`), so both report the same faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixer_jax.runtime.tabular import addresses, boxes, csv_files
from mixer_jax.runtime.tabular.tables import Layout
from mixer_jax.runtime.text import quoted

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "sample_id",
    "role",
    "image",
    "text",
    "category_id",
    "group",
    "split",
)
LAYOUT = Layout(
    COLUMNS,
    ids=("sample_id", "category_id"),
    exact=True,
    name="sample table",
    note="; cells may be empty where a sample has no image, text or group",
    images="image",
    optional=boxes.COLUMNS,
)
QUERY, DOCUMENT = "query", "document"
# SPLIT matches valid splits. INVALID matches paths with a '..' part or a prefix
# such as '~' or 'C:'; OUTSIDE also matches absolute paths.
SPLIT = r"[A-Za-z0-9_\-]+(/[A-Za-z0-9_\-]+)?"
# Maximum number of characters per row. Commands also write rows as CSV, with up
# to four bytes per character and doubled quotes, and a row must fit in a block.
LONGEST = csv_files.BLOCK // 8
INVALID = r"^(?:[\\~]|[A-Za-z]:)|(?:^|[/\\])\.\.(?:[/\\\n]|$)"
OUTSIDE = rf"^/|{INVALID}"


class Rule(NamedTuple):
    """A rule that every row must follow.

    Attributes:
      column: the column that the message names.
      message: what is wrong; {value} is replaced by the cell, in quotes.
      broken: maps a frame of strings to bool `[N]`, true where the rule is
        broken.
    """

    column: str
    message: str
    broken: Callable[[pd.DataFrame], Any]


class Fault(NamedTuple):
    """A broken rule.

    Attributes:
      rule: the rule.
      row: position of the first row that breaks it.
      value: that row's cell.
      count: the number of rows that break it.
    """

    rule: Rule
    row: int
    value: str
    count: int

    def describe(self, where: str) -> str:
        """Returns the error message; `where` names the first row."""
        more = f" (and {self.count - 1} more rows)" if self.count > 1 else ""
        message = self.rule.message.format(value=quoted(self.value))
        return f"{where}, column {self.rule.column}: {message}{more}."


# The only rule that depends on more than one row.
REPEATED = Rule(
    "sample_id",
    "an earlier row has the same ID {value}; IDs must be unique",
    lambda rows: rows["sample_id"].duplicated(),
)
RULES = (
    Rule(
        "sample_id",
        "a sample needs an ID",
        lambda rows: rows["sample_id"] == "",
    ),
    Rule(
        "sample_id",
        "the ID {value} ends in a NUL character, which an array of IDs cannot "
        "store",
        lambda rows: rows["sample_id"].str.endswith("\0"),
    ),
    REPEATED,
    Rule(
        "role",
        "the role is {value}; it must be 'query' or 'document'",
        lambda rows: ~rows["role"].isin((QUERY, DOCUMENT)),
    ),
    Rule(
        "category_id",
        "a category is required",
        lambda rows: rows["category_id"] == "",
    ),
    Rule(
        "image",
        "a query needs an image",
        lambda rows: (rows["role"] == QUERY) & (rows["image"] == ""),
    ),
    Rule(
        "text",
        "a query cannot have a text; leave the cell empty",
        lambda rows: (rows["role"] == QUERY) & (rows["text"] != ""),
    ),
    Rule(
        "image",
        "a document needs an image or a text",
        lambda rows: (
            (rows["role"] == DOCUMENT)
            & (rows["image"] == "")
            & (rows["text"] == "")
        ),
    ),
    Rule(
        "image",
        "the path {value} must be relative to the table's folder and inside "
        "it, or absolute, without '..'",
        lambda rows: rows["image"].str.contains(INVALID),
    ),
    Rule(
        "image",
        "images at {value} cannot be fetched, only those at https://, gs:// "
        "and s3:// addresses",
        lambda rows: (
            rows["image"].str.contains(r"^[A-Za-z][A-Za-z0-9+.-]+://")
            & ~rows["image"].str.startswith(addresses.SCHEMES)
        ),
    ),
    *(Rule(*check) for check in boxes.CHECKS),
    Rule(
        "split",
        "the split is {value}; it must be a name or name/part, made of "
        "letters, digits, '_' and '-'",
        lambda rows: ~rows["split"].str.fullmatch(SPLIT),
    ),
    Rule(
        "text",
        f"the row has more than {LONGEST} characters; shorten its text "
        "{value}",
        lambda rows: sum(rows[name].str.len() for name in COLUMNS) > LONGEST,
    ),
)


def faults(
    rows: pd.DataFrame, rules: Sequence[Rule] = RULES
) -> Iterator[Fault]:
    """Yields the broken rules, in the order of `rules`.

    Args:
      rows: a frame of strings with the columns of `COLUMNS`.
      rules: the rules to check.
    """
    for rule in rules:
        broken = np.flatnonzero(np.asarray(rule.broken(rows), bool))
        if broken.size:
            first = int(broken[0])
            value = rows[rule.column].iloc[first]
            yield Fault(rule, first, value, broken.size)
