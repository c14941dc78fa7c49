"""Samples whose contents are the same: one picture and text under two IDs."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from mixer_jax.categories.clustering.methods import join
from mixer_jax.categories.evidence.graph import QUERY_ITEM, Features, Pairs

# Cosine from which two pictures, or two texts, are copies of one: what the
# encoder's rounding leaves, and nearer than any variant.
SAME = 0.99999


def same_contents(pairs: Pairs, features: Features) -> np.ndarray:
    """Mask `[P]` of the pairs that are copies of each other.

    Two queries are if their pictures are. Two items are if all that they have
    is: pictures, texts, or both. A query is a copy of an item whose picture it
    is, unless that picture stands for items that differ: then it is a
    placeholder, and says nothing.

    Args:
      pairs: P pairs of any kind.
      features: of the samples.
    """
    queries = len(features.query_image)
    nodes = queries + len(features.item_image)
    image, text = pairs.content[:, 0], pairs.content[:, 2]
    same_image, same_text = image >= SAME, text >= SAME  # False where NaN
    has_image = np.append(
        features.query_image.any(axis=1), features.item_image.any(axis=1)
    )
    has_text = np.append(
        np.zeros(queries, bool), features.item_text.any(axis=1)
    )
    like = pairs.kind != QUERY_ITEM
    for same, has in ((same_image, has_image), (same_text, has_text)):
        one, other = has[pairs.first], has[pairs.second]
        like &= (one == other) & (same | ~one)
    like &= same_image | same_text
    across = (pairs.kind == QUERY_ITEM) & same_image
    return like | (across & _of_one(pairs, like, across, nodes))


def _of_one(
    pairs: Pairs, like: np.ndarray, across: np.ndarray, nodes: int
) -> np.ndarray:
    """Mask `[P]` of the pairs whose query shows items of one content only."""
    graph = csr_array(
        (np.ones(like.sum()), (pairs.first[like], pairs.second[like])),
        shape=(nodes, nodes),
    )
    count, content = connected_components(graph, directed=False)
    # First is the query: queries are numbered before items.
    shown = np.unique(
        content[pairs.first[across]].astype(np.int64) * count
        + content[pairs.second[across]]
    )
    times = np.bincount(shown // count, minlength=count)
    return times[content[pairs.first]] == 1


def join_copies(
    labels: np.ndarray,
    is_query: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """Joins the clusters of copies, as far as clicks do not say otherwise.

    Copied items are one: all that they have is the same. A query has but its
    picture, so if two copies were clicked with different items (the flags of
    Norway and of Bouvet Island are one drawing), they stay apart. A cluster of
    queries alone, or of items alone, goes to the first copy that has both.

    Args:
      labels: int `[N]`, every sample in a cluster.
      is_query: bool `[N]`.
      first: int `[S]`, the one sample of each pair of copies.
      second: int `[S]`, the other.

    Returns:
      New labels `[N]`.
    """
    items = ~is_query[first] & ~is_query[second]
    labels = join(labels, labels[first[items]], labels[second[items]])
    # What has one role only joins its like first, so that it goes as one.
    whole = _whole(labels, is_query)
    a, b = labels[first], labels[second]
    bare = ~whole[a] & ~whole[b]
    labels = join(labels, a[bare], b[bare])
    whole = _whole(labels, is_query)
    a, b = labels[first], labels[second]
    a, b = np.where(whole[b], a, b), np.where(whole[b], b, a)
    chosen = ~whole[a] & whole[b]
    moved, at = np.unique(a[chosen], return_index=True)
    return join(labels, moved, b[chosen][at])


def _whole(labels: np.ndarray, is_query: np.ndarray) -> np.ndarray:
    """Mask of the clusters that have queries and items."""
    count = labels.max(initial=-1) + 1
    queries = np.bincount(labels[is_query], minlength=count)
    return (queries > 0) & (queries < np.bincount(labels, minlength=count))
