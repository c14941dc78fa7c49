"""What a sample table's columns and rows must be.

One list of rules serves tables in memory (`table.validate`) and those that
are checked batch by batch (`table_check`), so both say the same of the same.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.runtime.tabular.tables import Layout
from mixer_jax.runtime.text import quoted

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
)
QUERY, DOCUMENT = "query", "document"
# Regular expressions: what a split is, and a path that leaves its folder.
SPLIT = r"[A-Za-z0-9_\-]+(/[A-Za-z0-9_\-]+)?"
OUTSIDE = r"^(?:[/\\~]|[A-Za-z]:)|(?:^|[/\\])\.\.(?:[/\\\n]|$)"


class Rule(NamedTuple):
    """What no row may be.

    Attributes:
      column: the column to look at.
      message: what is wrong; {value} stands for the cell, in quotes.
      broken: from a frame of strings to bool `[N]`, the rows that break it.
    """

    column: str
    message: str
    broken: Callable[[pd.DataFrame], Any]


class Fault(NamedTuple):
    """A rule that is broken.

    Attributes:
      rule: the rule.
      row: position of the first row that breaks it.
      value: that row's cell.
      count: how many rows break it.
    """

    rule: Rule
    row: int
    value: str
    count: int

    def said(self, where: str) -> str:
        """Returns the sentence for people; `where` names the first row."""
        more = f" (and {self.count - 1} more rows)" if self.count > 1 else ""
        message = self.rule.message.format(value=quoted(self.value))
        return f"{where}, column {self.rule.column}: {message}{more}."


# The only rule that a row cannot break alone.
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
        "a category is needed",
        lambda rows: rows["category_id"] == "",
    ),
    Rule(
        "image",
        "a query needs an image",
        lambda rows: (rows["role"] == QUERY) & (rows["image"] == ""),
    ),
    Rule(
        "text",
        "a query has no text; leave the cell empty",
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
        "the path {value} must be relative to the table's folder and inside it",
        lambda rows: rows["image"].str.contains(OUTSIDE),
    ),
    Rule(
        "split",
        "the split is {value}; it must be a name or name/part, of "
        "letters, digits, '_' and '-'",
        lambda rows: ~rows["split"].str.fullmatch(SPLIT),
    ),
)


def faults(
    rows: pd.DataFrame, rules: Sequence[Rule] = RULES
) -> Iterator[Fault]:
    """Yields the rules that some row breaks, in the order of the rules.

    Args:
      rows: a frame of strings with the columns of `COLUMNS`.
      rules: those to look at.
    """
    for rule in rules:
        broken = np.flatnonzero(np.asarray(rule.broken(rows), bool))
        if broken.size:
            first = int(broken[0])
            value = rows[rule.column].iloc[first]
            yield Fault(rule, first, value, broken.size)


def check_columns(names: Sequence[str], path: str | os.PathLike) -> None:
    """Checks that a table has each of `COLUMNS` once and no other.

    Raises:
      UserError: names what is unknown, missing or there twice.
    """
    LAYOUT.check(names, path)
