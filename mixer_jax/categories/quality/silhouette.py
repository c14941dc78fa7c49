"""Do categories hang together by content? A judge that needs no truth."""

import dataclasses

import numpy as np
from sklearn.metrics import silhouette_samples

from mixer_jax.categories.evidence.graph import Features, normalize


@dataclasses.dataclass(frozen=True)
class Silhouettes:
    """How well samples sit in their categories, -1 to 1.

    Attributes:
      mean: over the samples that were looked at.
      samples: how many those were.
      categories: `[S]` int64, the labels of the categories they are of, sorted.
      of_category: `[S]` f64, the mean over each one's samples.
    """

    mean: float
    samples: int
    categories: np.ndarray
    of_category: np.ndarray


def silhouettes(
    features: Features, labels: np.ndarray, most: int = 4000, seed: int = 0
) -> Silhouettes | None:
    """Measures the silhouette of categories, by cosine of images.

    Of a sample with mean distance a to the others of its category and b to
    those of the nearest other one it is `(b - a) / max(a, b)`: Rousseeuw,
    "Silhouettes" (1987). Whole categories are drawn until there are enough
    samples, so its cost does not grow with the catalogue; the fewer are looked
    at, the further is the nearest other one.

    Args:
      features: of Q queries and I items; images are compared around the mean
        of their role, which differ where photos and drawings do.
      labels: `[Q + I]` int, negative for no category.
      most: samples that are looked at.
      seed: of the draw.

    Returns:
      None if there are not two categories of two images or more.
    """
    roles = (features.query_image, features.item_image)
    known = np.concatenate([image.any(axis=1) for image in roles])
    there = np.flatnonzero((labels >= 0) & known)
    size = np.bincount(labels[there], minlength=1)
    several = np.flatnonzero(size > 1)
    drawn = np.random.default_rng(seed).permutation(several)
    enough = np.searchsorted(size[drawn].cumsum(), most, side="right")
    drawn = drawn[: max(enough, 2)]
    rows = there[np.isin(labels[there], drawn)]
    if len(drawn) < 2:
        return None
    # Of a large catalogue only the rows that are looked at are copied.
    count = len(roles[0])
    image = np.concatenate(
        [
            _centred(roles[0], rows[rows < count]),
            _centred(roles[1], rows[rows >= count] - count),
        ]
    )
    value = silhouette_samples(image, labels[rows], metric="cosine")
    categories, place = np.unique(labels[rows], return_inverse=True)
    total = np.bincount(place, value)
    return Silhouettes(
        mean=float(value.mean()),
        samples=len(rows),
        categories=categories,
        of_category=total / np.bincount(place),
    )


def _centred(
    image: np.ndarray, rows: np.ndarray, enough: int = 64
) -> np.ndarray:
    """Some unit rows around the mean of all; few say too little about it."""
    known = image.any(axis=1)
    mean = np.zeros(image.shape[1], np.float32)
    if known.sum() >= enough:
        # Rows of zeros, no image, add nothing to the sum.
        mean = image.sum(axis=0) / known.sum()
    return normalize(image[rows] - mean[None, :])
