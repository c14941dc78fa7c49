"""The nearest items to queries, by their best vectors, with filters.

A search of Milvus returns vectors, many of which may belong to the same item or
group. If they belong to too few items, the search is repeated without these
items.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.service.stores import fields
from mixer_jax.service.stores.interface import Hit
from mixer_jax.service.stores.milvus import expressions, rows

MAX_WIDTH = 16_384  # maximum number of vectors that Milvus returns
_SPARE = 16  # vectors beyond the number of items


class Page(NamedTuple):
    """The results of a search of Milvus.

    Attributes:
      found: valid rows with their cosines, nearest first.
      is_full: whether there may be more.
    """

    found: Sequence[tuple[rows.Row, float]]
    is_full: bool


# Returns a page per query, given the queries, the number of rows and a filter.
Search = Callable[[np.ndarray, int, str], Sequence[Page]]


class Wanted(NamedTuple):
    """A description of the items to find.

    Attributes:
      count: the maximum number of items per query.
      terms: expressions that all rows must match.
      group_by: a field; only the nearest item of each value is found.
    """

    count: int
    terms: Sequence[str]
    group_by: str | None = None


def wanted(
    count: int,
    declared: Mapping[str, str],
    *,
    where: Mapping[str, Any] | None,
    group_by: str | None,
    without: str | None,
) -> Wanted:
    """Returns the items to find; see `interface.Store.search`.

    Raises:
      UserError: if a condition is invalid, or a field is unknown.
    """
    terms = expressions.expression(where, declared) if where else []
    if without is not None:
        terms.append(expressions.other_items([without]))
    if group_by is not None:
        fields.find(group_by, declared)
    return Wanted(count, terms, group_by)


def nearest(
    search: Search, queries: np.ndarray, what: Wanted
) -> list[list[Hit]]:
    """Finds the nearest items to each query.

    Args:
      search: searches for rows.
      queries: f32 `[Q, D]`, unit rows.
      what: the items to find.

    Returns:
      Hits, nearest first.
    """
    width = min(2 * what.count + _SPARE, MAX_WIDTH)
    expression = expressions.all_of(what.terms)
    answers = []
    pages = search(queries, width, expression)
    for query, page in zip(queries, pages, strict=True):
        best = _Best(what)
        is_new = best.add(page)
        while len(best.hits) < what.count and page.is_full and is_new:
            terms = [*what.terms, *best.others()]
            (page,) = search(query[None], width, expressions.all_of(terms))
            is_new = best.add(page)
        answers.append(best.hits[: what.count])
    return answers


class _Best:
    """The best row of each item, or of each group."""

    def __init__(self, what: Wanted):
        self._group_by = what.group_by
        self._seen: dict[tuple, None] = {}  # a set that keeps the order
        self.hits: list[Hit] = []

    def add(self, page: Page) -> bool:
        """Adds rows, nearest first; returns whether any was the best one."""
        before = len(self.hits)
        for row, cosine in page.found:
            key = self._key(row)
            if key not in self._seen:
                self._seen[key] = None
                self.hits.append(rows.hit(row, cosine))
        return len(self.hits) > before

    def _key(self, row: rows.Row) -> tuple:
        if self._group_by in fields.BUILT_IN:
            value = row[self._group_by] or None
        else:
            value = (row["fields"] or {}).get(self._group_by)
        if value is None:  # an item without the field is a group of its own
            return "item", row["id"]
        return "value", type(value) is bool, value

    def others(self) -> list[str]:
        """Returns expressions for the rows of other items and groups."""
        items = [key[1] for key in self._seen if key[0] == "item"]
        values = [key[2] for key in self._seen if key[0] == "value"]
        terms = [expressions.other_items(items)] if items else []
        for value in values:
            terms.append(expressions.other_value(self._group_by, value))
        return terms
