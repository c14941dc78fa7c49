"""Contact sheets: queries with their five top-ranked documents."""

import base64
import functools
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.data.tables import table
from mixer_jax.retrieval import evaluate

PIXELS = 80  # side length of a thumbnail


class Hit(NamedTuple):
    """One document in a ranking."""

    image: str  # data URI; "" for none
    name: str  # text of the document, or its category ID
    score: float  # cosine with the query
    right: bool  # whether it is in the query's category


class Strip(NamedTuple):
    """One query and its top-ranked documents."""

    image: str  # data URI
    name: str  # name of its category
    part: str  # part of the split; "" for none
    position: int  # rank of the first correct document, from 1
    documents: int  # number of documents in its gallery
    hits: tuple[Hit, ...]

    @property
    def right(self) -> bool:
        """Whether the first document is in the query's category."""
        return self.hits[0].right


class Sheet(NamedTuple):
    """A titled group of strips."""

    title: str
    note: str
    strips: tuple[Strip, ...]


def thumbnail(path: str | os.PathLike, pixels: int = PIXELS) -> str:
    """Returns a `data:` URI of the image as a small WebP on white."""
    buffer = io.BytesIO()
    image = Image.fromarray(decoding.decode(path, pixels))
    image.save(buffer, format="WEBP", quality=82, method=6)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{code}"


class Ranked(NamedTuple):
    """The rankings of one part of a split: Q queries over N documents."""

    queries: pd.DataFrame  # [Q]
    documents: pd.DataFrame  # [N]
    part: str
    top: np.ndarray  # int32 [Q, 5], rows of `documents`; -1 for none
    scores: np.ndarray  # f32 [Q, 5]
    position: np.ndarray  # int32 [Q], rank of the first correct document


def rank(
    embed: evaluate.Embed,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    root: str | os.PathLike,
    mesh: Mesh,
    part: str = "",
) -> Ranked:
    """Ranks documents for queries, as `evaluate.measure` does.

    Queries without a document of their category are left out.
    """
    blocks = list(
        evaluate.rank(
            evaluate.make_samples(queries, root, embed),
            evaluate.make_samples(documents, root, embed),
            mesh,
        )
    )
    top, scores = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("top", "scores")
    )
    last = np.iinfo(np.int32).max
    position = np.concatenate(
        [
            np.where(b.positions > 0, b.positions, last).min(axis=1)
            for b in blocks
        ]
    )
    kept = position < last
    return Ranked(
        queries[kept], documents, part, top[kept], scores[kept], position[kept]
    )


def make_sheets(
    rankings: Sequence[Ranked],
    root: str | os.PathLike,
    count: int = 8,
    worst: int = 6,
    seed: int = 0,
) -> list[Sheet]:
    """Chooses queries that show a model's successes and failures.

    Args:
      rankings: one per part of the split.
      root: the folder of the images.
      count: the number of random queries on each of the first two sheets.
      worst: the number of queries whose correct document is ranked lowest.
      seed: the random seed.

    Returns:
      The non-empty sheets: correct, wrong, worst.
    """
    places = [
        (number, row)
        for number, ranked in enumerate(rankings)
        for row in range(len(ranked.queries))
    ]
    position = [int(rankings[n].position[row]) for n, row in places]
    order = np.random.default_rng(seed).permutation(len(places))
    right = [places[i] for i in order if position[i] == 1]
    wrong = [places[i] for i in order if position[i] > 1]
    last = sorted(range(len(places)), key=lambda i: -position[i])
    last = [places[i] for i in last if position[i] > 1][:worst]

    def drawn(some: list) -> str:
        if len(some) <= count:
            return f"all {len(some)}"
        return f"{count} of {len(some)}, drawn at random"

    chosen = (
        ("Correct at rank 1", drawn(right), right[:count]),
        ("Wrong at rank 1", drawn(wrong), wrong[:count]),
        ("Worst ranks", "the correct document is ranked lowest", last),
    )
    shrink = functools.cache(thumbnail)
    return [
        Sheet(
            title,
            note,
            tuple(
                make_strip(rankings[n], row, root, shrink) for n, row in some
            ),
        )
        for title, note, some in chosen
        if some
    ]


def make_strip(
    ranked: Ranked,
    row: int,
    root: str | os.PathLike,
    shrink: Callable[[pathlib.Path], str] = thumbnail,
) -> Strip:
    """Returns one query of a ranking with its top documents."""
    query = ranked.queries.iloc[row]
    of_category = ranked.documents[
        ranked.documents["category_id"] == query["category_id"]
    ]

    def picture(sample: pd.Series) -> str:
        return shrink(pathlib.Path(root) / sample.image) if sample.image else ""

    hits = []
    for place, score in zip(ranked.top[row], ranked.scores[row], strict=True):
        if place < 0:
            break
        sample = ranked.documents.iloc[place]
        hits.append(
            Hit(
                picture(sample),
                sample.text or sample.category_id,
                float(score),
                sample.category_id == query.category_id,
            )
        )
    return Strip(
        image=picture(query),
        name=next(filter(None, of_category["text"]), query.category_id),
        part=ranked.part,
        position=int(ranked.position[row]),
        documents=len(ranked.documents),
        hits=tuple(hits),
    )


def category_samples(
    frame: pd.DataFrame,
    root: str | os.PathLike,
    count: int = 8,
    shown: int = 10,
    seed: int = 0,
) -> list[tuple[str, int, list[str]]]:
    """Returns samples from the largest and from other, random categories.

    Args:
      frame: a sample table.
      root: the folder of its images.
      count: the number of categories, of which a third are the largest.
      shown: the maximum number of different images per category.
      seed: the random seed.

    Returns:
      Name, number of samples and thumbnails (data URIs) of each category.
    """
    sizes = frame["category_id"].value_counts(sort=False).sort_index()
    sizes = sizes.sort_values(ascending=False, kind="stable")
    largest = list(sizes.index[: count // 3])
    others = sizes.index[len(largest) :]
    drawn = np.random.default_rng(seed).permutation(len(others))
    names = largest + [others[i] for i in drawn[: count - len(largest)]]
    result = []
    for name in names:
        samples = frame[frame["category_id"] == name]
        paths = [p for p in dict.fromkeys(samples["image"]) if p][:shown]
        pictures = [thumbnail(pathlib.Path(root) / path) for path in paths]
        title = next(filter(None, samples["text"]), name)
        result.append((title, int(sizes[name]), pictures))
    return result


def rank_parts(
    embed: evaluate.Embed,
    frame: pd.DataFrame,
    root: str | os.PathLike,
    split: str,
    mesh: Mesh,
) -> list[Ranked]:
    """Ranks documents for queries, separately for each part of a split."""
    rankings = []
    for part in table.parts(frame, split):
        rows = table.select(frame, f"{split}/{part}" if part else split)
        queries = rows[rows["role"] == table.QUERY]
        documents = rows[rows["role"] == table.DOCUMENT]
        rankings.append(rank(embed, queries, documents, root, mesh, part))
    return rankings
