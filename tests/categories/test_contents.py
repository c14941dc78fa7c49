import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories.contents import same_contents
from mixer_jax.categories.graph import Features, build_pairs

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
