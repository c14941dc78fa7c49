"""Detection of copies: samples with the same content under different IDs."""

import numpy as np

from mixer_jax.categories.clustering.methods import join
from mixer_jax.categories.evidence.graph import QUERY_ITEM, Features, Pairs

# Cosine threshold for copies of an image or text. It allows for rounding in the
# encoder; variants of an image have lower cosines.
SAME = 0.99999


def same_contents(pairs: Pairs, features: Features) -> np.ndarray:
    """Returns a mask `[P]` of the pairs that are copies of each other.

    Two queries are copies if their images are the same. Two items are copies if
    all their content is the same: image, text, or both. A query is a copy of an
    item with the same image, unless items with different contents share that
    image: then it is a placeholder and carries no information.

    Args:
      pairs: P pairs of any kind.
      features: features of the samples.
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
    """Returns a mask `[P]` of pairs whose query matches only one content."""
    content = join(np.arange(nodes), pairs.first[like], pairs.second[like])
    count = content.max(initial=-1) + 1
    # `first` is the query, as queries are numbered before items.
    shown = np.unique(
        content[pairs.first[across]] * count + content[pairs.second[across]]
    )
    times = np.bincount(shown // count, minlength=count)
    return times[content[pairs.first]] == 1


def join_copies(
    labels: np.ndarray,
    is_query: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """Joins the clusters of copies, unless clicks contradict this.

    Copies of an item are always joined, as all their content is the same. A
    query has only its image, so copies of a query stay apart if different items
    were clicked for them (the flags of Norway and Bouvet Island are the same
    drawing). A cluster of only queries or only items joins the first cluster
    that has both roles and a copy of one of its samples.

    Args:
      labels: int `[N]`; every sample is in a cluster.
      is_query: bool `[N]`.
      first: int `[S]`, one sample of each pair of copies.
      second: int `[S]`, the other sample.

    Returns:
      New labels `[N]`.
    """
    items = ~is_query[first] & ~is_query[second]
    labels = join(labels, labels[first[items]], labels[second[items]])
    # Merge single-role clusters first, so that copies stay together.
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
    """Returns a mask of the clusters that have both queries and items."""
    count = labels.max(initial=-1) + 1
    queries = np.bincount(labels[is_query], minlength=count)
    return (queries > 0) & (queries < np.bincount(labels, minlength=count))
