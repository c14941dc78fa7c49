"""Calibrates an index with queries whose right answers are known."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from mixer_jax.data.images import checking, decoding
from mixer_jax.data.tables import table as table_lib
from mixer_jax.retrieval import calibration
from mixer_jax.runtime import identity, paths, progress, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import entries, opening
from mixer_jax.service.items import Index
from mixer_jax.service.stores.interface import Hit

_QUERIES = 256  # embedded and searched at once
# Items that show a query's own picture are not counted.
_ASKED = 2 * calibration.ANSWERS


def calibrate(
    folder: str | os.PathLike,
    table: str | os.PathLike,
    *,
    split: str = "",
    workdir: str | os.PathLike | None = None,
    max_skipped: float | None = None,
) -> calibration.Calibration:
    """Fits a calibration to searches in an index, and stores it there.

    An answer is right if its category is that of the query. Queries whose
    category has no item in the index count as well.

    Args:
      folder: the index.
      table: a sample table with queries that the model was not trained on.
      split: the split of the queries; by default that of the evaluation.
      workdir: the workdir of the model, if moved.
      max_skipped: the maximum share of queries with unreadable pictures; by
        default the model's.

    Raises:
      UserError: if the table or the model is missing or invalid, there are too
        few queries, or no answer is right.
    """
    with opening.open_with(folder, workdir=workdir) as index:
        frame = _read(index, table, split, max_skipped)
        tally = calibration.Tally()
        with progress.show("Searching", len(frame)) as count:
            for start in range(0, len(frame), _QUERIES):
                part = frame.iloc[start : start + _QUERIES]
                _count(index, part, tally)
                count(len(part))
        if not tally.answers[..., 1].any():
            raise UserError(
                f"No answer has the category of its query: the category IDs in "
                f"{os.fspath(table)} must be those of the items in "
                f"{os.fspath(folder)}."
            )
        fitted = calibration.fit(tally, index.model.step)
        index.store.calibrate(fitted)
    return fitted


def _read(
    index: Index,
    path: str | os.PathLike,
    split: str,
    max_skipped: float | None,
) -> pd.DataFrame:
    """Returns the queries, with a `path` and the `code` of a category."""
    data = index.model.config.data
    frame = table_lib.read_table(path, data.image_roots)
    frame = table_lib.select(frame, split or index.model.config.evaluate.split)
    frame = frame[frame.role == table_lib.QUERY]
    root = paths.absolute(table_lib.folder(path))
    share = data.max_skipped if max_skipped is None else max_skipped
    frame, skipped = checking.check_images(
        frame, root, share, max_pixels=data.max_pixels
    )
    if skipped.count:
        terminal.say(skipped.with_examples())
    return frame.assign(
        path=[root / name for name in frame.image],
        code=pd.factorize(frame.category_id)[0],
    )


def _count(index: Index, frame: pd.DataFrame, tally: calibration.Tally) -> None:
    """Counts the answers to some queries."""
    embeddings = index.model.embed_queries(frame.path.tolist())
    answers = index.store.search(embeddings, _ASKED)
    shape = len(frame), calibration.ANSWERS
    cosines, right = np.zeros(shape), np.zeros(shape, bool)
    exists = np.zeros(shape, bool)
    rows = zip(frame.path, frame.category_id, answers, strict=True)
    for row, (path, category, hits) in enumerate(rows):
        kept = _without_own(index, path, hits)[: calibration.ANSWERS]
        exists[row, : len(kept)] = True
        cosines[row, : len(kept)] = [hit.score for hit in kept]
        right[row, : len(kept)] = [hit.category == category for hit in kept]
    tally.add(
        frame.code.to_numpy(),
        cosines,
        right,
        documents=index.store.count(),
        exists=exists,
    )


def _without_own(
    index: Index, path: os.PathLike, hits: Sequence[Hit]
) -> list[Hit]:
    """Returns the hits that do not show the query's own picture."""
    digest = identity.digest(decoding.read(path)).tobytes()
    known = index.store.contents([hit.id for hit in hits])
    return [
        hit
        for hit in hits
        if entries.content_of(digest, hit.text) not in known[hit.id]
    ]
