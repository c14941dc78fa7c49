"""The nearest items, with a search over rows in memory."""

import numpy as np
import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.stores.milvus import searching
from mixer_jax.service.stores.milvus.searching import Page, Wanted

QUERY = np.ones((1, 2), np.float32)


def row(id, place=0, group="", **fields):
    return {
        "key": f"{id}-{place}",
        "id": id,
        "place": place,
        "group": group,
        "category": "",
        "text": "",
        "fields": fields,
        "image": "",
        "pictured": True,
    }


def pages(*found, width=3):
    """Returns a search with given pages, and the filters that it gets."""
    filters = []

    def search(queries, limit, expression):
        filters.append(expression)
        rows = found[len(filters) - 1]
        pairs = [(one, 1 - n / 10) for n, one in enumerate(rows)]
        return [Page(pairs, len(rows) == width)]

    return search, filters


def ids(search, *what, **options):
    (hits,) = searching.nearest(search, QUERY, Wanted(*what, **options))
    return [(hit.id, hit.number) for hit in hits]


def test_the_best_row_of_each_item_counts():
    search, filters = pages([row("a", 1), row("a"), row("b")])
    assert ids(search, 2, ["x"]) == [("a", 1), ("b", 0)]
    assert filters == ["(x)"]


def test_a_search_continues_without_the_items_found():
    search, filters = pages(
        [row("a", place) for place in range(3)],
        [row("b", place) for place in range(3)],
        [row("c")],
    )
    assert ids(search, 5, ["x"]) == [("a", 0), ("b", 0), ("c", 0)]
    assert filters == [
        "(x)",
        '(x) and (id not in ["a"])',
        '(x) and (id not in ["a", "b"])',
    ]


def test_a_search_continues_without_the_groups_found():
    search, filters = pages(
        [row("a", size=1), row("b", size=1), row("c")], [row("d", size=2)]
    )
    found = ids(search, 3, [], group_by="size")
    assert found == [("a", 0), ("c", 0), ("d", 0)]
    assert filters[1] == (
        '(id not in ["c"]) and '
        '(not (exists fields["size"] and fields["size"] == 1))'
    )


def test_an_item_without_the_field_is_a_group_of_its_own():
    found = [row("a", group="g"), row("b"), row("c"), row("d", group="g")]
    search, _ = pages(found, width=9)
    assert ids(search, 9, [], group_by="group") == [
        ("a", 0),
        ("b", 0),
        ("c", 0),
    ]
    found = [row("a", x=True), row("b", x=1), row("c", x=1.0)]
    search, _ = pages(found, width=9)
    assert ids(search, 9, [], group_by="x") == [("a", 0), ("b", 0)]


def test_a_search_ends_if_nothing_new_is_found():
    same = [row("a", place) for place in range(3)]
    search, filters = pages(same, same, same)
    assert ids(search, 2, []) == [("a", 0)]
    assert len(filters) == 2


def test_what_is_wanted_is_checked():
    options = {"where": {"x": 1}, "group_by": "x", "without": "a"}
    found = searching.wanted(5, {"x": "number"}, **options)
    terms = ['(fields["x"] == 1)', 'id not in ["a"]']
    assert found == (5, terms, "x")
    with pytest.raises(UserError, match="no field 'x'"):
        searching.wanted(5, {}, where=None, group_by="x", without=None)
