import numpy as np
import pandas as pd
import pytest

from mixer_jax.categories.clustering.contents import join_copies, same_contents
from mixer_jax.categories.evidence.graph import Features, build_pairs

IMAGES = np.eye(6)
TEXTS = np.eye(6)[:, ::-1].copy()


def _same(queries, items, texts):
    """Returns the pairs of copies; -1 means no image or no text."""

    def rows(table, chosen):
        table = np.concatenate([table, np.zeros((1, 6))])
        return table[np.array(chosen, int)]

    features = Features(
        rows(IMAGES, queries), rows(IMAGES, items), rows(TEXTS, texts)
    )
    columns = ["query", "item", "exposures", "clicks"]
    clicks = pd.DataFrame(np.zeros((0, 4), np.int64), columns=columns)
    pairs = build_pairs(features, clicks, 5)
    same = same_contents(pairs, features)
    chosen = zip(pairs.first[same], pairs.second[same], strict=True)
    return sorted((int(a), int(b)) for a, b in chosen)


def test_queries_with_the_same_image_are_copies():
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
def test_items_are_copies_if_all_their_content_is_the_same(items, texts, same):
    assert _same([0], items, texts) == ([(1, 2)] if same else [])


def test_a_query_is_a_copy_of_the_item_with_its_image():
    assert _same([0, 3], [0, 1], [0, 1]) == [(0, 2)]
    # Items 2 and 3 have the same content under two IDs.
    assert _same([0, 3], [0, 0], [1, 1]) == [(0, 2), (0, 3), (2, 3)]


def test_placeholder_images_are_ignored():
    assert _same([0, 3], [0, 0, 3], [1, 2, 4]) == [(1, 4)]


# Queries 0 to 2, items 3 to 5.
IS_QUERY = np.arange(6) < 3


def _join(labels, copies):
    first, second = np.array(copies, int).reshape(-1, 2).T
    return join_copies(np.array(labels), IS_QUERY, first, second).tolist()


def test_clusters_of_copied_items_are_joined():
    assert _join([0, 1, 2, 0, 1, 3], [(3, 4)]) == [0, 0, 1, 0, 0, 2]


def test_copied_queries_with_different_items_stay_apart():
    apart = [0, 1, 2, 0, 1, 3]
    assert _join(apart, [(0, 1)]) == apart
    # A query without items joins one of the clusters, which stay separate.
    assert _join(apart, [(0, 2), (1, 2)]) == [0, 1, 0, 0, 1, 2]


def test_single_role_clusters_move_as_a_unit():
    # Queries 0 and 1 are copies and form a unit; 1 is also a copy of query 2.
    assert _join([0, 1, 2, 2, 3, 4], [(0, 1), (1, 2)]) == [0, 0, 0, 0, 1, 2]
    # A query and the item with the same image.
    assert _join([0, 1, 2, 3, 4, 5], [(0, 4)]) == [0, 1, 2, 3, 0, 4]
    assert _join([0, 1, 2, 3, 4, 5], []) == [0, 1, 2, 3, 4, 5]
