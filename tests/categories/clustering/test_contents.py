import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories.clustering.contents import join_copies, same_contents
from mixer_jax.categories.evidence.graph import Features, build_pairs

PICTURES = np.eye(6)
TEXTS = np.eye(6)[:, ::-1].copy()


def _same(queries, items, texts):
    """Pairs of nodes that are copies; -1 is no picture or no text."""

    def rows(table, chosen):
        table = np.concatenate([table, np.zeros((1, 6))])
        return table[np.array(chosen, int)]

    features = Features(
        rows(PICTURES, queries), rows(PICTURES, items), rows(TEXTS, texts)
    )
    columns = ["query", "item", "exposures", "clicks"]
    clicks = pd.DataFrame(np.zeros((0, 4), np.int64), columns=columns)
    pairs = build_pairs(features, clicks, 5)
    same = same_contents(pairs, features)
    chosen = zip(pairs.first[same], pairs.second[same], strict=True)
    return sorted((int(a), int(b)) for a, b in chosen)


def test_queries_of_one_picture():
    assert _same([0, 1, 0], [2], [0]) == [(0, 2)]


@pytest.mark.parametrize(
    ("items", "texts", "same"),
    [
        ([1, 1], [2, 2], True),
        ([1, 1], [2, 3], False),
        ([1, 2], [2, 2], False),
        ([1, 1], [-1, -1], True),
        ([-1, -1], [2, 2], True),
        ([1, -1], [2, 2], False),
        ([1, 1], [2, -1], False),
    ],
)
def test_items_are_the_same_if_all_they_have_is(items, texts, same):
    assert _same([0], items, texts) == ([(1, 2)] if same else [])


def test_a_query_is_the_item_whose_picture_it_is():
    assert _same([0, 3], [0, 1], [0, 1]) == [(0, 2)]
    # Two IDs of one item are one content.
    assert _same([0, 3], [0, 0], [1, 1]) == [(0, 2), (0, 3), (2, 3)]


def test_a_placeholder_says_nothing():
    assert _same([0, 3], [0, 0, 3], [1, 2, 4]) == [(1, 4)]


# Queries 0 to 2, items 3 to 5.
IS_QUERY = np.arange(6) < 3


def _join(labels, copies):
    first, second = np.array(copies, int).reshape(-1, 2).T
    return join_copies(np.array(labels), IS_QUERY, first, second).tolist()


def test_copied_items_are_joined_with_all_that_they_have():
    assert _join([0, 1, 2, 0, 1, 3], [(3, 4)]) == [0, 0, 1, 0, 0, 2]


def test_copied_queries_with_items_of_their_own_stay_apart():
    apart = [0, 1, 2, 0, 1, 3]
    assert _join(apart, [(0, 1)]) == apart
    # A query without items goes to one of them, and does not join them.
    assert _join(apart, [(0, 2), (1, 2)]) == [0, 1, 0, 0, 1, 2]


def test_what_has_one_role_goes_as_one():
    # Both lonely queries are copies; only the second is one of a whole.
    assert _join([0, 1, 2, 2, 3, 4], [(0, 1), (1, 2)]) == [0, 0, 0, 0, 1, 2]
    # A query and the item whose picture it is.
    assert _join([0, 1, 2, 3, 4, 5], [(0, 4)]) == [0, 1, 2, 3, 0, 4]
    assert _join([0, 1, 2, 3, 4, 5], []) == [0, 1, 2, 3, 4, 5]
