"""Silhouettes: cohesion of categories by content, without true categories."""

import dataclasses

import numpy as np
from sklearn.metrics import silhouette_samples

from mixer_jax.categories.evidence.graph import Features
from mixer_jax.runtime.arrays import normalize


@dataclasses.dataclass(frozen=True)
class Silhouettes:
    """Silhouette coefficients of samples, from -1 to 1.

    Attributes:
      mean: mean over the drawn samples.
      samples: number of drawn samples.
      categories: `[S]` int64, sorted labels of their categories.
      of_category: `[S]` f64, mean over the samples of each category.
    """

    mean: float
    samples: int
    categories: np.ndarray
    of_category: np.ndarray


def silhouettes(
    features: Features,
    labels: np.ndarray,
    max_samples: int = 4000,
    seed: int = 0,
) -> Silhouettes | None:
    """Computes the silhouettes of categories from cosines of images.

    For a sample with mean distance a to the other samples of its category and
    mean distance b to the samples of the nearest other category, the silhouette
    is `(b - a) / max(a, b)` (Rousseeuw, "Silhouettes", 1987). Whole categories
    are drawn, up to `max_samples`, so the cost does not grow with the catalog.
    With fewer categories drawn, the nearest other category is farther away.

    Args:
      features: features of Q queries and I items; images are centered by role,
        as the means of photos and drawings differ.
      labels: `[Q + I]` int, negative for no category.
      max_samples: maximum number of drawn samples; at least two categories are
        drawn.
      seed: seed of the draw.

    Returns:
      The silhouettes; None unless two categories have two or more images each.
    """
    roles = (features.query_image, features.item_image)
    known = np.concatenate([image.any(axis=1) for image in roles])
    there = np.flatnonzero((labels >= 0) & known)
    size = np.bincount(labels[there], minlength=1)
    several = np.flatnonzero(size > 1)
    drawn = np.random.default_rng(seed).permutation(several)
    enough = np.searchsorted(size[drawn].cumsum(), max_samples, side="right")
    drawn = drawn[: max(enough, 2)]
    rows = there[np.isin(labels[there], drawn)]
    if len(drawn) < 2:
        return None
    # Copy only the drawn rows, as the catalog may be large.
    count = len(roles[0])
    image = np.concatenate(
        [
            _centered(roles[0], rows[rows < count]),
            _centered(roles[1], rows[rows >= count] - count),
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


def _centered(
    image: np.ndarray, rows: np.ndarray, enough: int = 64
) -> np.ndarray:
    """Returns unit rows, centered if at least `enough` images are known."""
    known = image.any(axis=1)
    mean = np.zeros(image.shape[1], np.float32)
    if known.sum() >= enough:
        # Zero rows (no image) do not affect the sum.
        mean = image.sum(axis=0) / known.sum()
    return normalize(image[rows] - mean[None, :])
