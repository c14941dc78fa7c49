"""The neighbor graph: pairs of samples that are worth comparing.

Nodes are the samples: queries first (rows 0 .. Q-1), then items.
"""

import dataclasses

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.runtime.arrays import normalize
from mixer_jax.search.neighbors import (
    cosine_top_k,
    mutual_top_k,
    take,
)


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of the catalog, from any frozen encoder.

    Attributes:
      query_image: `[Q, C]` float; a row of zeros where there is no image.
      item_image: `[I, C]` float, likewise.
      item_text: `[I, T]` float, likewise.
    """

    query_image: np.ndarray
    item_image: np.ndarray
    item_text: np.ndarray

    @property
    def samples(self) -> int:
        """Number of samples, Q + I."""
        return len(self.query_image) + len(self.item_image)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """P unique pairs of nodes worth comparing.

    Attributes:
      first, second: `[P]` int64 nodes; first < second.
      kind: `[P]` int8, one of `KINDS`.
      content: `[P, 4]` float32: cosine and margin of the images, cosine and
        margin of the texts; NaN where either sample has none. The margin is
        twice the cosine, minus the mean cosine of the first sample to its
        neighbors, minus that of the second (CSLS, arXiv 1710.04087).
      exposures, clicks: `[P]` int64; zero for pairs of one role.
    """

    first: np.ndarray
    second: np.ndarray
    kind: np.ndarray
    content: np.ndarray
    exposures: np.ndarray
    clicks: np.ndarray

    def where(self, chosen: np.ndarray) -> "Pairs":
        """Returns the pairs selected by a `[P]` bool mask."""
        return Pairs(
            *(getattr(self, f.name)[chosen] for f in dataclasses.fields(self))
        )


QUERY_ITEM, ITEM_ITEM, QUERY_QUERY = KINDS = (0, 1, 2)


def build_pairs(
    features: Features,
    clicks: pd.DataFrame,
    k: int,
    mesh: Mesh | None = None,
) -> Pairs:
    """Returns the nearest neighbors by content, and all pairs of the log.

    Args:
      features: features of Q queries and I items.
      clicks: columns query, item (rows), exposures, clicks.
      k: number of neighbors per sample within each kind and modality.
      mesh: devices for the search; all by default.

    Returns:
      At most `k * (3 Q + 4 I)` pairs, in addition to those of the log.
    """
    num_queries = len(features.query_image)
    image_q = _center(features.query_image)
    image_i = _center(features.item_image)
    text_i = _center(features.item_text)
    compared = (
        # kind of pair, column of `content`, rows, gallery
        (QUERY_ITEM, 0, image_q, image_i),
        (ITEM_ITEM, 0, image_i, image_i),
        (ITEM_ITEM, 2, text_i, text_i),
        (QUERY_QUERY, 0, image_q, image_q),
    )
    offset = {
        QUERY_ITEM: (0, num_queries),
        ITEM_ITEM: (num_queries, num_queries),
        QUERY_QUERY: (0, 0),
    }
    nodes = num_queries + len(image_i)
    pair_codes = [_codes(clicks["query"], clicks["item"] + num_queries, nodes)]
    kinds = [np.full(len(clicks), QUERY_ITEM, np.int8)]
    density = []  # mean cosine of neighbors, for rows and for gallery
    for kind, _, rows, gallery in compared:
        forth, back = _nearest(rows, gallery, k, mesh)
        density.append((_mean(forth[1]), _mean(back[1])))
        for (index, cosine), swap in ((forth, False), (back, True)):
            row, column = np.nonzero(np.isfinite(cosine))
            a, b = row, index[row, column]
            a, b = (b, a) if swap else (a, b)
            a, b = a + offset[kind][0], b + offset[kind][1]
            pair_codes.append(_codes(np.minimum(a, b), np.maximum(a, b), nodes))
            kinds.append(np.full(len(a), kind, np.int8))
    codes, at = np.unique(np.concatenate(pair_codes), return_index=True)
    kind = np.concatenate(kinds)[at]
    first, second = codes // nodes, codes % nodes

    content = np.full((len(codes), 4), np.nan, np.float32)
    for (which, column, rows, gallery), (dense_a, dense_b) in zip(
        compared, density, strict=True
    ):
        these = np.flatnonzero(kind == which)
        a = first[these] - offset[which][0]
        b = second[these] - offset[which][1]
        cosine = _cosine(rows, gallery, a, b)
        content[these, column] = cosine
        content[these, column + 1] = 2 * cosine - dense_a[a] - dense_b[b]

    exposures = np.zeros(len(codes), np.int64)
    clicked = np.zeros(len(codes), np.int64)
    place = np.searchsorted(codes, pair_codes[0])
    exposures[place] = clicks["exposures"]
    clicked[place] = clicks["clicks"]
    return Pairs(first, second, kind, content, exposures, clicked)


def images(features: Features) -> np.ndarray:
    """Returns unit rows `[Q + I, C]` of all images, centered by role."""
    return np.concatenate(
        [_center(features.query_image), _center(features.item_image)]
    )


def _center(features: np.ndarray, enough: int = 64) -> np.ndarray:
    """Centers rows on their mean, to reduce domain shift; returns unit rows.

    Fewer than `enough` known rows are not centered: their mean is unreliable.
    """
    features = np.asarray(features, np.float32)
    known = features.any(axis=1)
    if known.sum() >= enough:
        mean = features[known].mean(axis=0, keepdims=True)
        features = np.where(known[:, None], features - mean, 0.0)
    return normalize(features)


def _nearest(
    rows: np.ndarray, gallery: np.ndarray, k: int, mesh: Mesh | None
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns the neighbors of all rows, and of all gallery rows.

    The neighbors of unknown rows have cosine -inf. If `gallery` is `rows`, no
    row is its own neighbor and both results are the same.
    """
    know_row = np.flatnonzero(rows.any(axis=1))
    if rows is gallery:
        known = take(rows, know_row)
        found = cosine_top_k(known, known, k, same=True, mesh=mesh)
        forth = _among_all(found, len(rows), know_row, know_row)
        return forth, forth
    know_gallery = np.flatnonzero(gallery.any(axis=1))
    forth, back = mutual_top_k(
        take(rows, know_row), take(gallery, know_gallery), k, mesh=mesh
    )
    return (
        _among_all(forth, len(rows), know_row, know_gallery),
        _among_all(back, len(gallery), know_gallery, know_row),
    )


def _among_all(
    found: tuple[np.ndarray, np.ndarray],
    count: int,
    asked: np.ndarray,
    among: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Scatters neighbors of rows `asked` in rows `among` to `count` rows."""
    near, score = found
    index = np.zeros((count, near.shape[1]), np.int64)
    cosine = np.full(index.shape, -np.inf, np.float32)
    index[asked] = among[near] if near.size else near
    cosine[asked] = score
    return index, cosine


def _mean(cosine: np.ndarray) -> np.ndarray:
    """Returns the mean cosine of the neighbors `[N]`; 0 without neighbors."""
    known = np.isfinite(cosine)
    total = np.where(known, cosine, 0.0).sum(axis=1)
    return total / np.maximum(known.sum(axis=1), 1)


def _cosine(
    rows: np.ndarray,
    gallery: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    block: int = 1024,
) -> np.ndarray:
    """Returns the cosine `[P]` of each pair; NaN where either is unknown."""
    cosine = np.empty(len(a), np.float32)
    for start in range(0, len(a), block):
        x, y = rows[a[start : start + block]], gallery[b[start : start + block]]
        known = x.any(axis=1) & y.any(axis=1)
        dot = np.einsum("pc,pc->p", x, y)
        cosine[start : start + block] = np.where(known, dot, np.nan)
    return cosine


def _codes(a: np.ndarray, b: np.ndarray, nodes: int) -> np.ndarray:
    """Returns a unique number for each pair."""
    return np.asarray(a, np.int64) * nodes + np.asarray(b, np.int64)
