"""Evaluation of an embedding function on categories it was not trained on.

Each part of the test split (`test/forward`, ...) is a separate retrieval task:
its queries rank its documents, alone (gallery `test`) and together with the
documents of the same part of the distractor split (`test+distractors`). The row
of the whole split is the mean of the rows of its parts.
"""

import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.images import checking, decoding
from mixer_jax.data.tables import table as table_lib
from mixer_jax.retrieval import calibration, metrics
from mixer_jax.runtime import (
    processes,
    progress,
    text,
)
from mixer_jax.runtime.errors import UserError
from mixer_jax.search.rows import Rows

Row = dict[str, Any]
# A function that embeds the samples of a frame, all of one role: f32 [rows, D].
Embed = Callable[[pd.DataFrame], np.ndarray]

MEASURES = tuple(key for key, _, _ in metrics.DEFINITIONS)
RANKED = calibration.ANSWERS  # top documents kept per query
BLOCK = 1024  # queries ranked at once


class Samples(NamedTuple):
    """Samples of one role, with only the data needed for ranking; N rows."""

    embeddings: np.ndarray  # f32 [N, D]
    categories: np.ndarray  # str [N], as objects: np.str_ drops trailing NULs
    groups: np.ndarray  # str [N], likewise; "" for no group
    images: np.ndarray  # str [N]: digests of the image files; "" for none

    def merge(self, other: "Samples") -> "Samples":
        """Returns the concatenation of both sets of samples."""
        return Samples(*map(np.concatenate, zip(self, other, strict=True)))


def image_digests(frame: pd.DataFrame, root: str | os.PathLike) -> np.ndarray:
    """Returns a digest of each image; equal images have equal digests.

    Args:
      frame: N rows of a sample table.
      root: the folder that the column `image` is relative to.

    Returns:
      Digests, str `[N]`; "" where the sample has no image.
    """
    names = progress.track(set(frame.image) - {""}, "Comparing image files")
    root = pathlib.Path(root)
    digests = {name: decoding.digest(root / name) for name in names} | {"": ""}
    return np.array([digests[path] for path in frame.image], dtype=str)


def make_samples(
    frame: pd.DataFrame, root: str | os.PathLike, embed: Embed
) -> Samples:
    """Embeds the samples of a frame, all of one role."""
    return Samples(
        embeddings=embed(frame),
        categories=frame.category_id.to_numpy(object),
        groups=frame.group.to_numpy(object),
        images=image_digests(frame, root),
    )


class Block(NamedTuple):
    """Rankings of a block of B queries."""

    rows: slice  # the block's queries
    top: np.ndarray  # int64 [B, RANKED], document rows; -1 for none
    scores: np.ndarray  # f32 [B, RANKED], cosines
    positions: np.ndarray  # int32 [B, R], see `Rows.positions`


def rank(
    queries: Samples,
    documents: Samples,
    mesh: Mesh,
    own: slice = slice(None),
) -> Iterator[Block]:
    """Ranks all documents for every query, one block of queries at a time.

    Documents with the query's own image are excluded from its ranking.

    Args:
      queries: the queries, at least one.
      documents: the documents, at least one.
      mesh: the devices that search the documents.
      own: the blocks to yield.
    """
    category_q, category_d = _codes(queries.categories, documents.categories)
    image_q, image_d = _codes(queries.images, documents.images)
    embeddings = documents.embeddings
    gallery = Rows(embeddings.shape[1], mesh, capacity=len(embeddings))
    gallery.append(embeddings, labels=image_d)
    by_category = np.argsort(category_d, kind="stable")
    ordered = category_d[by_category]
    for start in range(0, len(category_q), BLOCK)[own]:
        rows = slice(start, start + BLOCK)
        category, image = category_q[rows], image_q[rows]
        embeddings = queries.embeddings[rows]
        relevant = _padded(
            by_category,
            np.searchsorted(ordered, category, "left"),
            np.searchsorted(ordered, category, "right"),
        )
        positions = gallery.positions(embeddings, relevant, labels=image)
        top, scores = gallery.search(embeddings, RANKED, labels=image)
        yield Block(rows, top, scores, positions)


def measure(
    queries: Samples,
    documents: Samples,
    mesh: Mesh,
    together: bool = False,
    *,
    tally: calibration.Tally | None = None,
) -> Row:
    """Returns the measures of all queries' rankings; see `rank`.

    Queries without a document of their category are not counted. With
    `together`, all processes measure the same samples, each on its own mesh;
    they divide the blocks of queries.

    Args:
      queries: the queries.
      documents: the documents.
      mesh: the devices that search the documents.
      together: whether all processes share the work.
      tally: counts the answers to all queries that this process ranks.

    Returns:
      `MEASURES` (None if no query is counted), `queries` (the number counted),
      `documents` (their number) and `excluded` (how often a document was
      excluded because it shows the query's own image).
    """
    category_q, category_d = _codes(queries.categories, documents.categories)
    group_q, group_d = _codes(queries.groups, documents.groups)
    place, count = processes.place() if together else (0, 1)
    own, found = slice(place, None, count), []
    with progress.show(
        "Ranking documents for queries", len(category_q) / count
    ) as counted:
        for rows, top, scores, positions in rank(queries, documents, mesh, own):
            category = category_q[rows]
            top_category = np.where(top >= 0, category_d[top], -2)
            top_group = np.where(top >= 0, group_d[top], -2)
            means = metrics.of_block(
                positions, top_category, category, top_group, group_q[rows]
            )
            found.append([means[name] for name in MEASURES])
            if tally is not None:
                tally.add(
                    category,
                    scores,
                    top_category == category[:, None],
                    documents=len(category_d),
                    exists=top >= 0,
                )
            counted(len(top))
    result = _merge(found, together)
    image_q, image_d = _codes(queries.images, documents.images)
    shown = np.bincount(image_d + 1, minlength=image_q.max() + 2)
    shown[0] = 0  # documents without an image
    return {
        "queries": result["map"].count,
        "documents": len(category_d),
        **{name: result[name].value for name in MEASURES},
        "excluded": int(shown[image_q + 1].sum()),
    }


def _merge(
    found: list[list[metrics.Mean]], together: bool
) -> dict[str, metrics.Mean]:
    """Merges the block means of all processes.

    Means are merged in block order, so that rounding does not depend on the
    number of processes.
    """
    shares = [found]
    if together:
        processes.barrier("ranked", processes.PATIENCE)
        shares = processes.gather("measures", found)
    result = {name: metrics.Mean() for name in MEASURES}
    for block in itertools.chain(*itertools.zip_longest(*shares)):
        for name, mean in zip(MEASURES, block or (), strict=block is not None):
            result[name] = result[name].merge(metrics.Mean(*mean))
    return result


def evaluate(
    embed: Embed,
    frame: pd.DataFrame,
    root: str | os.PathLike,
    settings: ConfigDict,
    mesh: Mesh,
    model: str,
    stage: str = "",
    *,
    step: int | None = None,
    together: bool = False,
) -> list[Row]:
    """Evaluates one model on all parts and galleries of a sample table.

    Args:
      embed: a function that embeds samples with the model.
      frame: a checked sample table, see `read`.
      root: the table's folder.
      settings: `split` and `distractors` of a config's `evaluate`.
      mesh: the devices that search the documents.
      model: the model's name in the rows.
      stage: the model's last training stage; "" if it has none.
      step: the model's training step, to calibrate it; None for a baseline.
      together: see `measure`.

    Returns:
      Rows with the keys `model, stage, split, gallery, queries, documents`, the
      `MEASURES`, `seconds` (for embedding and ranking) and `excluded`; with a
      step, also `calibration`, the fields of a `calibration.Calibration`, or
      None if there are too few queries.
    """
    rows, tallies = [], []
    for part in table_lib.parts(frame, settings.split):
        begin = time.perf_counter()
        split = _part(settings.split, part)
        test = table_lib.select(frame, split)
        queries = make_samples(test[test.role == "query"], root, embed)
        documents = make_samples(test[test.role == "document"], root, embed)
        names = {"model": model, "stage": stage, "split": split}

        def row(gallery, documents, names=names, queries=queries, begin=begin):
            tally = calibration.Tally()
            figures = measure(queries, documents, mesh, together, tally=tally)
            tallies.append(tally.collect() if together else tally)
            excluded = figures.pop("excluded")
            seconds = round(time.perf_counter() - begin, 3)
            times = {"seconds": seconds, "excluded": excluded}
            return names | {"gallery": gallery} | figures | times

        rows.append(row("test", documents))
        others = distractors(frame, settings, part)
        if len(others):
            documents = documents.merge(make_samples(others, root, embed))
            rows.append(row("test+distractors", documents))
    rows += metrics.means(rows, settings.split)
    if step is not None:
        _calibrate(rows, tallies, step)
    return rows


def _calibrate(
    rows: list[Row], tallies: list[calibration.Tally], step: int
) -> None:
    """Adds calibrations to rows: those of parts, then those of all parts."""
    galleries = [row["gallery"] for row in rows[: len(tallies)]]
    for place, row in enumerate(rows):
        own = [place] if place < len(tallies) else range(len(tallies))
        chosen = [tallies[i] for i in own if galleries[i] == row["gallery"]]
        found = calibration.try_fit(calibration.merge(chosen), step)
        row["calibration"] = found and found._asdict()


def table_path(config: ConfigDict) -> pathlib.Path:
    """Returns the sample table for evaluating a config's model."""
    return pathlib.Path(config.evaluate.table or config.data.table)


def read(
    path: str | os.PathLike,
    settings: ConfigDict,
    max_skipped: float,
    max_pixels: int = decoding.MAX_PIXELS,
    *,
    image_roots: str = "",
    together: bool = False,
) -> tuple[pd.DataFrame, list[table_lib.Skipped]]:
    """Reads and checks the rows of a sample table for an evaluation.

    Args:
      path: the sample table.
      settings: `split` and `distractors` of a config's `evaluate`.
      max_skipped: the maximum share of samples that may be dropped.
      max_pixels: the maximum number of pixels per image; see `decoding.decode`.
      image_roots: see `table.read_table`.
      together: see `checking.check_images`.

    Returns:
      The usable rows of the test split and of the distractors' documents, and
      descriptions of the dropped rows.

    Raises:
      UserError: if the table is invalid, too many samples are unusable, the
        split has no queries, no documents or no query with a document of its
        category, or distractors share a category with the split.
    """
    frame = table_lib.read_table(path, image_roots)
    test = table_lib.select(frame, settings.split)
    others = distractors(frame, settings)
    shared = sorted(set(test.category_id) & set(others.category_id))
    if shared:
        raise UserError(
            f"{len(shared)} categories of {path} are in both splits, "
            f"{settings.split!r} and {settings.distractors!r}, such as "
            f"{text.quoted(shared[0])}; evaluated categories must not be used "
            "for training, so assign each category to one split."
        )
    splits = sorted(set(test.split))
    for split in splits:
        for role in (table_lib.QUERY, table_lib.DOCUMENT):
            if not (test.role[test.split == split] == role).any():
                raise UserError(
                    f"The split {split!r} of {path} has no {role}, so there "
                    "is nothing to measure."
                )
    test, lone = table_lib.drop_lone(test, max_skipped, training=False)
    frame, unreadable = checking.check_images(
        frame.loc[test.index.append(others.index).sort_values()],
        table_lib.folder(path),
        max_skipped,
        max_pixels=max_pixels,
        together=together,
    )
    _check_answerable(frame, splits, path)
    return frame, [skipped for skipped in (lone, unreadable) if skipped.count]


def _check_answerable(
    frame: pd.DataFrame, splits: Iterable[str], path: str | os.PathLike
) -> None:
    """Checks that each split has a query with a document of its category."""
    for split in splits:
        part = frame[frame.split == split]
        query = part.role == table_lib.QUERY
        if not part.category_id[query].isin(part.category_id[~query]).any():
            raise UserError(
                f"The split '{split}' of {path} has no usable query with a "
                "document of its category, so there is nothing to measure. "
                "Give matching queries and documents the same category ID, and "
                "repair unreadable images."
            )


def distractors(
    frame: pd.DataFrame, settings: ConfigDict, part: str = ""
) -> pd.DataFrame:
    """Returns the distractor documents of one part, or of all parts."""
    name = settings.distractors
    chosen = frame.split == _part(name, part)
    if not part:
        chosen |= frame.split.str.startswith(f"{name}/")
    return frame[chosen & (frame.role == table_lib.DOCUMENT)]


def _part(split: str, part: str) -> str:
    return f"{split}/{part}" if part else split


def _codes(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, ...]:
    """Encodes the strings of two arrays as shared integers; "" as -1."""
    names, codes = np.unique(np.concatenate([left, right]), return_inverse=True)
    codes = codes.astype(np.int32) - int(names[0] == "")
    return codes[: len(left)], codes[len(left) :]


def _padded(
    rows: np.ndarray, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Returns each query's `rows[first:last]`, padded with -1, as `[Q, R]`."""
    index = first[:, None] + np.arange((last - first).max(initial=1))[None, :]
    inside = index < last[:, None]
    index = np.minimum(index, len(rows) - 1)
    return np.where(inside, rows[index], -1).astype(np.int32)
