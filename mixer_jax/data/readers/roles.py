"""Who asks and who answers, where a data set does not say.

In each category half of the images become queries and the others documents,
drawn by a hash of category and image: the same in every run, and for an image
also where others come or go. Of an odd number the documents have the larger
half; one image alone is a document.
"""

from collections.abc import Iterable

import numpy as np

from mixer_jax.data.readers.rows import digest


def draw(
    categories: np.ndarray,
    images: np.ndarray,
    asks: np.ndarray,
    answers: np.ndarray,
    names: Iterable[tuple[str, str]],
) -> np.ndarray:
    """Says which samples are queries.

    Samples of one category that show the same image get the same role, so
    that no query is answered by itself.

    Args:
      categories: int `[N]`, a number for each category.
      images: int `[N]`, a number for each image; -1 is none.
      asks: bool `[N]`, the samples that are queries in any case.
      answers: bool `[N]`, those that are documents in any case. Samples without
        an image must be among them.
      names: the category ID and image path of each sample, for the hash.

    Returns:
      bool `[N]`.
    """
    # One number for category and image; that of an absent image is 0.
    width = int(images.max()) + 2
    pairs, first, pair = np.unique(
        categories.astype(np.int64) * width + np.maximum(images, -1) + 1,
        return_index=True,
        return_inverse=True,
    )
    category, with_image = pairs // width, pairs % width > 0
    asking, answering = (_any(pair, of, len(pairs)) for of in (asks, answers))
    size = np.bincount(category, weights=with_image).astype(np.int64)
    asked = np.bincount(category, weights=asking).astype(np.int64)
    quota = size // 2 - asked
    # The free pairs of a category, in the order of their hashes.
    free = np.flatnonzero(~asking & ~answering)
    order = _order(names, first, len(categories))
    free = free[np.lexsort((order[free], category[free]))]
    begins = np.searchsorted(category[free], category[free])
    rank = np.arange(len(free)) - begins
    query = asking & ~answering
    query[free[rank < quota[category[free]]]] = True
    return asks | (query[pair] & ~answers)


def _order(
    names: Iterable[tuple[str, str]], first: np.ndarray, count: int
) -> np.ndarray:
    """Returns the hash of each pair, uint64, its first sample's position given.

    Of the hash's bits it takes the upper 64; equal ones are not to be expected.
    """
    wanted = np.full(count, -1)
    wanted[first] = np.arange(len(first))
    order = np.zeros(len(first), np.uint64)
    for place, name in zip(wanted.tolist(), names, strict=True):
        if place >= 0:
            order[place] = digest(*name) >> 96
    return order


def _any(pair: np.ndarray, samples: np.ndarray, count: int) -> np.ndarray:
    """Whether a pair has one of the samples, bool `[count]`."""
    return np.bincount(pair, weights=samples, minlength=count) > 0
