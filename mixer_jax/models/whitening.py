"""Learned whitening: an initial map of image encodings that fits the pairs.

Pairs of a query and a document of the same category show in which directions
the encodings of one thing differ (in style, light or vendor), and which
directions tell things apart. The map scales the former down, and keeps the D
directions in which the variance of all encodings is largest relative to the
variance within pairs::

    moments = whitening.start(size)
    for query, document, mask in batches:
        moments = whitening.add(moments, query, document, mask)
    found = whitening.solve(moments, kernel)
    if found is not None:
        params = whitening.apply(params, found)

References:
  Mikolajczyk and Matas, "Improving descriptors for fast tree matching by
  optimal linear projection", ICCV 2007; Radenovic et al., "CNN image retrieval
  learns from BoW" (arXiv 1604.02426), section 3.2.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

# The variance within pairs is regularized as if there were this many more pairs
# per element, which differ equally in all directions: there are often fewer
# pairs than elements.
SHRINKAGE = 0.5
_SMALLEST = 1e-5  # variances below this share are rounding errors


class Moments(NamedTuple):
    """Sums over pairs of encodings with C elements, all f32.

    Attributes:
      count: scalar, the number of pairs.
      query: `[C]`, the sum of the queries' encodings.
      document: `[C]`, likewise of the documents.
      squares: `[C, C]`, the sum of x x^T over both encodings x.
      differences: `[C, C]`, the sum of x x^T over the differences x.
    """

    count: jax.Array
    query: jax.Array
    document: jax.Array
    squares: jax.Array
    differences: jax.Array


class Whitening(NamedTuple):
    """The map x -> (x - mean) kernel, with a mean for each role.

    Attributes:
      kernel: f32 `[C, D]`.
      query: f32 `[C]`, the mean encoding of the queries.
      document: f32 `[C]`, likewise of the documents.
    """

    kernel: np.ndarray
    query: np.ndarray
    document: np.ndarray


def start(size: int) -> Moments:
    """Returns the moments of no pairs, for encodings with `size` elements."""
    shapes = (), (size,), (size,), (size, size), (size, size)
    return Moments(*map(jnp.zeros, shapes))  # distinct arrays, to be donated


def add(
    moments: Moments, query: jax.Array, document: jax.Array, mask: jax.Array
) -> Moments:
    """Adds pairs to the moments.

    Args:
      moments: the moments of the previous pairs.
      query: `[B, C]`, the queries' encodings.
      document: `[B, C]`; row i belongs to the same category as query i.
      mask: bool `[B]`, false for rows to ignore.
    """
    query, document = (
        jnp.where(mask[:, None], rows.astype(jnp.float32), 0.0)
        for rows in (query, document)
    )
    difference = query - document
    return Moments(
        moments.count + mask.sum(),
        moments.query + query.sum(0),
        moments.document + document.sum(0),
        moments.squares + query.T @ query + document.T @ document,
        moments.differences + difference.T @ difference,
    )


def solve(
    moments: Moments, start: np.ndarray, shrinkage: float = SHRINKAGE
) -> Whitening | None:
    """Returns the whitening of some pairs.

    Args:
      moments: the moments of the pairs.
      start: f32 `[C, D]`, a random map. If the encodings vary in fewer than D
        directions, because there are few pairs, the remaining columns keep its
        directions.
      shrinkage: see `SHRINKAGE`.

    Returns:
      The whitening; None if there are fewer than two pairs, or if encodings do
      not differ within pairs. The mean square of the outputs is 1, averaged
      over the directions that were found.
    """
    count, query, document, squares, differences = (
        np.asarray(moment, np.float64) for moment in moments
    )
    if count < 2:
        return None
    query, document = query / count, document / count
    means = np.outer(query, query) + np.outer(document, document)
    total = (squares / count - means) / 2
    shift = query - document
    within = (differences / count - np.outer(shift, shift)) / 2
    # The sums are rounded to f32.
    if np.trace(within) <= _SMALLEST * np.trace(total):
        return None
    noise = shrinkage * np.trace(within) / count
    within += noise * np.eye(len(within))
    ratios, found = scipy.linalg.eigh(
        total,
        within,
        subset_by_index=(max(0, len(total) - start.shape[1]), len(total) - 1),
    )
    found = found[:, ::-1][:, ratios[::-1] > _SMALLEST * ratios[-1]]
    # Eigenvectors have no sign of their own.
    size = found.shape[1]
    found *= np.sign(found[np.abs(found).argmax(0), np.arange(size)])
    rest = np.asarray(start[:, size:], np.float64)
    rest /= np.sqrt(np.einsum("cd,ce,ed->d", rest, within, rest))
    square = np.einsum("cd,ce,ed->", found, total, found) / size
    kernel = np.concatenate([found, rest], 1) / np.sqrt(square)
    return Whitening(*(x.astype(np.float32) for x in (kernel, query, document)))


def apply(params: Mapping[str, Any], whitening: Whitening) -> dict[str, Any]:
    """Initializes both towers with a whitening.

    Args:
      params: the parameters of a `towers.Mixer`.
      whitening: the result of `solve`.

    Returns:
      The same tree, with new maps of the images in both towers.
    """
    kernel = whitening.kernel
    layers = params["query_layers"]
    layers = layers | {
        "linear": {"kernel": kernel},
        "out": layers["out"] | {"bias": -whitening.query @ kernel},
    }
    fusion = params["fusion"]
    if "image" in fusion:  # A fusion may ignore the image.
        image = {"kernel": kernel, "bias": -whitening.document @ kernel}
        fusion = fusion | {"image": image}
    return {**params, "query_layers": layers, "fusion": fusion}
