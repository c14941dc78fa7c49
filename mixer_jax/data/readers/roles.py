"""Assigns roles to the samples of data sets that define none.

In each category, half of the images become queries and the rest documents. The
images are ranked by a hash, so the roles are the same in every run, and few
change if images are added or removed. With an odd number of images, there is
one more document; a single image is a document.
"""

from collections.abc import Iterable

import numpy as np

from mixer_jax.data.tables.holdout import digest


def draw(
    categories: np.ndarray,
    images: np.ndarray,
    queries: np.ndarray,
    documents: np.ndarray,
    names: Iterable[tuple[str, str]],
) -> np.ndarray:
    """Returns which samples become queries.

    Samples of one category that show the same image get the same role, so that
    no query has its own image as an answer.

    Args:
      categories: int `[N]`, the category of each sample.
      images: int `[N]`, the image of each sample; -1 for none.
      queries: bool `[N]`, samples that must be queries.
      documents: bool `[N]`, samples that must be documents, including all
        samples without an image.
      names: the category ID and image path of each sample, for the hash.

    Returns:
      bool `[N]`, true for queries.
    """
    # One number per (category, image) pair; a missing image counts as 0.
    width = int(images.max()) + 2
    pairs, first, pair = np.unique(
        categories.astype(np.int64) * width + np.maximum(images, -1) + 1,
        return_index=True,
        return_inverse=True,
    )
    category, with_image = pairs // width, pairs % width > 0
    fixed_query, fixed_document = (
        _any(pair, of, len(pairs)) for of in (queries, documents)
    )
    size = np.bincount(category, weights=with_image).astype(np.int64)
    fixed = np.bincount(category, weights=fixed_query).astype(np.int64)
    quota = size // 2 - fixed
    # Undecided pairs, sorted by category and hash.
    free = np.flatnonzero(~fixed_query & ~fixed_document)
    order = _order(names, first, len(categories))
    free = free[np.lexsort((order[free], category[free]))]
    begins = np.searchsorted(category[free], category[free])
    rank = np.arange(len(free)) - begins
    query = fixed_query & ~fixed_document
    query[free[rank < quota[category[free]]]] = True
    return queries | (query[pair] & ~documents)


def _order(
    names: Iterable[tuple[str, str]], first: np.ndarray, count: int
) -> np.ndarray:
    """Returns a hash of each pair, uint64, given its first sample's position.

    The hash is the upper 64 bits of `digest`; collisions are unlikely.
    """
    wanted = np.full(count, -1)
    wanted[first] = np.arange(len(first))
    order = np.zeros(len(first), np.uint64)
    for place, name in zip(wanted.tolist(), names, strict=True):
        if place >= 0:
            order[place] = digest(*name) >> 96
    return order


def _any(pair: np.ndarray, samples: np.ndarray, count: int) -> np.ndarray:
    """Returns whether each pair has any of the samples, bool `[count]`."""
    return np.bincount(pair, weights=samples, minlength=count) > 0
