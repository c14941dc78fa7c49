"""Measures of an experiment, with the rank of every query's answer."""

import base64
import functools
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.data.tables import table
from mixer_jax.retrieval import evaluate, metrics

# Embeds the samples of a frame, all of one role: f32 [rows, D].
Embed = Callable[[pd.DataFrame], np.ndarray]


class Ranked(NamedTuple):
    """The result of ranking the documents of each part for its queries.

    Attributes:
      measures: `evaluate.MEASURES`, means over all counted queries.
      ranks: the rank of each counted query's first document of its category,
        from 1, int32 [Q].
      categories: the counted queries' categories, as positions in the sorted
        category IDs of the ranked samples, int32 [Q].
      documents: the number of documents in the largest gallery.
      parts: Identical@1 of each part, by the name of its split, as a mean.
    """

    measures: dict[str, float | None]
    ranks: np.ndarray
    categories: np.ndarray
    documents: int
    parts: dict[str, metrics.Mean]


def rank(embed: Embed, frame: pd.DataFrame, mesh: Mesh) -> Ranked:
    """Ranks the documents of each part of a split for its queries.

    Args:
      embed: embeds samples of one role; rows that are not finite rank as zero
        vectors.
      frame: the samples of one split, with the column `digest`; documents with
        the query's own image are excluded.
      mesh: the devices that search the documents.
    """
    ids = table.category_index(frame)
    parts = {
        str(split): _rank_part(embed, part, ids, mesh)
        for split, part in frame.groupby("split", sort=True)
    }
    means = {
        name: functools.reduce(
            metrics.Mean.merge, [part.means[name] for part in parts.values()]
        )
        for name in evaluate.MEASURES
    }
    return Ranked(
        {name: mean.value for name, mean in means.items()},
        _join(part.ranks for part in parts.values()),
        _join(part.categories for part in parts.values()),
        max(part.documents for part in parts.values()),
        {name: part.means["identical_at_1"] for name, part in parts.items()},
    )


def _join(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([*arrays]).astype(np.int32)


class _Part(NamedTuple):
    """The ranked queries of one part; see `Ranked`."""

    means: dict[str, metrics.Mean]
    ranks: np.ndarray
    categories: np.ndarray
    documents: int


def _rank_part(
    embed: Embed, part: pd.DataFrame, ids: list[str], mesh: Mesh
) -> _Part:
    """Ranks the documents of one part for its queries."""
    query = (part["role"] == table.QUERY).to_numpy()
    queries, documents = part[query], part[~query]
    labels = table.labels(part, ids)
    groups = pd.factorize(part["group"].where(part["group"] != ""))[0]
    means = {name: metrics.Mean() for name in evaluate.MEASURES}
    ranks, categories = [], []
    for block in evaluate.rank(
        _samples(queries, embed), _samples(documents, embed), mesh
    ):
        found, own = block.top >= 0, labels[query][block.rows]
        of_block = metrics.of_block(
            block.positions,
            np.where(found, labels[~query][block.top], -2),
            own,
            np.where(found, groups[~query][block.top], -2),
            groups[query][block.rows],
        )
        means = {name: one.merge(of_block[name]) for name, one in means.items()}
        relevant = block.positions > 0
        last = np.iinfo(np.int32).max
        first = np.where(relevant, block.positions, last).min(axis=1)
        ranks.append(first[relevant.any(axis=1)])
        categories.append(own[relevant.any(axis=1)])
    return _Part(
        means, np.concatenate(ranks), np.concatenate(categories), len(documents)
    )


def _samples(frame: pd.DataFrame, embed: Embed) -> evaluate.Samples:
    return evaluate.Samples(
        embeddings=np.nan_to_num(embed(frame), posinf=0.0, neginf=0.0),
        categories=frame["category_id"].to_numpy(object),
        groups=frame["group"].to_numpy(object),
        images=frame["digest"].to_numpy(str),
    )


def pack(values: np.ndarray) -> str:
    """Returns an int32 array as compressed text for JSON."""
    content = np.ascontiguousarray(values, "<i4").tobytes()
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def unpack(text: Any) -> np.ndarray:
    """Returns the array of `pack`.

    Raises:
      ValueError: if the text is damaged.
    """
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
        return np.frombuffer(content, "<i4")
    except (TypeError, zlib.error) as error:
        raise ValueError(f"not a packed array: {error}") from error
