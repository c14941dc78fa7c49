"""Measures how the granularity of categories decides how well they teach.

The finest categories are pure and say little; the coarsest say much that is
wrong. What counts is what a model learns from them, so on each one's categories
a linear map of frozen features is trained, which takes seconds, and asked about
samples that it has not seen.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mixer_jax.categories import sweep
from mixer_jax.categories.evidence.graph import Features, normalize
from mixer_jax.categories.outcome import Outcome
from mixer_jax.categories.quality import against_truth
from mixer_jax.categories.settings import Settings
from mixer_jax.data.tables import table
from mixer_jax.experiments import baselines
from mixer_jax.runtime import paths, progress
from mixer_jax.runtime.errors import UserError

TRUTH = "held-out true categories"
LATER = "later clicks"
_MOST = 2000  # queries that are asked, at most
_BLOCK = 256  # of them at once, so that memory stays bounded


@dataclasses.dataclass(frozen=True)
class Exam:
    """Queries and items that no map is trained on, and the right answers.

    Attributes:
      of: `TRUTH` or `LATER`.
      queries: `[T]` rows of the samples.
      items: `[G]` rows of the samples that are searched.
      right: `[T]` sets of rows that are right.
      trained: `[Q + I]` bool, the samples that may be trained on.
    """

    of: str
    queries: np.ndarray
    items: np.ndarray
    right: list[set[int]]
    trained: np.ndarray


@dataclasses.dataclass(frozen=True)
class Shown:
    """Unit features of all samples; zeros where there is no image or text.

    Attributes:
      image: `[Q + I, C]` f32.
      text: `[I, T]` f32, of the items.
    """

    image: np.ndarray
    text: np.ndarray

    @classmethod
    def of(cls, features: Features) -> "Shown":
        """Makes them of the features that categories are found with."""
        image = [features.query_image, features.item_image]
        return cls(
            normalize(np.concatenate(image)), normalize(features.item_text)
        )

    @property
    def is_query(self) -> np.ndarray:
        """Bool `[Q + I]`."""
        rows = np.arange(len(self.image))
        return rows < len(self.image) - len(self.text)

    def document(self, rows: np.ndarray) -> np.ndarray:
        """Image and text of some items side by side `[N, C + T]`."""
        text = self.text[rows - (len(self.image) - len(self.text))]
        return np.concatenate([self.image[rows], text], axis=1)


def measure(
    outcome: Outcome,
    least: Sequence[float] = sweep.LEAST,
    neighbours: Sequence[int] = sweep.NEIGHBOURS,
    linear: baselines.LinearMap | None = None,
) -> dict[str, Any]:
    """Measures the categories of a grid of settings.

    Args:
      outcome: of a log; its samples have the true categories if there are any.
      least: affinities to try.
      neighbours: k to try.
      linear: hyper-parameters of the map; the defaults if None.

    Returns:
      exam, what retrieval was measured on; queries and items, how many;
      true_categories, the figure of a map that was trained on the truth, None
      without one; used, a line of what categorize would use; and points, a
      line a setting: least, neighbours, identical_at_1, categories,
      noise_share, seconds, and with a truth bcubed_f1.

    Raises:
      UserError: if there are no features, or nothing to measure on.
    """
    if outcome.features is None:
        raise UserError(
            "There are no features of these samples; run categorize again, "
            "which keeps them in features.npz."
        )
    linear = linear or baselines.LinearMap()
    exam, shown = make_exam(outcome), Shown.of(outcome.features)
    truth = outcome.samples.get("truth")
    result = {
        "exam": exam.of,
        "queries": len(exam.queries),
        "items": len(exam.items),
        "true_categories": None,
    }
    if truth is not None:
        codes, _ = pd.factorize(truth)
        labels = np.where(truth == "", -1, codes)
        result["true_categories"] = identical_at_1(shown, labels, exam, linear)

    def line(point: sweep.Point) -> dict[str, Any]:
        labels = point.labels
        figures = {
            "least": point.least,
            "neighbours": point.neighbours,
            "identical_at_1": identical_at_1(shown, labels, exam, linear),
            "categories": len(np.unique(labels[labels >= 0])),
            "noise_share": float((labels < 0).mean()),
            "seconds": point.seconds,
        }
        if truth is not None:
            known = (truth != "").to_numpy()
            figures["bcubed_f1"] = against_truth.against_truth(
                labels[known], truth[known].to_numpy()
            )["bcubed_f1"]
        return figures

    asked = (outcome.features, outcome.log.clicks)
    result["used"] = line(sweep.find_point(*asked, Settings()))
    points = sweep.sweep(*asked, least, neighbours)
    count = len(least) * len(neighbours)
    points = progress.track(points, "Measuring granularities", count)
    result["points"] = [line(point) for point in points]
    return result


def make_exam(outcome: Outcome) -> Exam:
    """Chooses what a map is asked: of held-out categories, or later clicks.

    With a truth, the held-out queries that have a held-out item of their
    category. Without one, a tenth of the queries that were clicked for later,
    drawn by a hash of their IDs; any of those items is right.

    Raises:
      UserError: if there is neither.
    """
    samples = outcome.samples
    is_query = (samples["role"] == table.QUERY).to_numpy()
    features = outcome.features
    image = np.concatenate([features.query_image, features.item_image]).any(1)
    if "held_out" in samples and samples["held_out"].any():
        held_out = samples["held_out"].to_numpy()
        truth = samples["truth"].to_numpy()
        items = np.flatnonzero(held_out & ~is_query)
        answers = pd.Series(items).groupby(truth[items]).agg(set)
        queries = np.flatnonzero(held_out & is_query & image)
        queries = queries[np.isin(truth[queries], answers.index)]
        right = [answers[truth[query]] for query in queries]
        of, trained = TRUTH, ~held_out
    elif outcome.later is not None:
        clicks = outcome.later[outcome.later["clicks"] > 0]
        offset = int(is_query.sum())
        answers = (clicks["item"] + offset).groupby(clicks["query"]).agg(set)
        queries = np.array(answers.index, int)
        drawn = [_is_drawn(name) for name in samples["sample_id"][queries]]
        queries = queries[image[queries] & np.array(drawn, bool)]
        items = np.flatnonzero(~is_query)
        right = [answers[query] for query in queries]
        trained = ~np.isin(np.arange(len(samples)), queries)
        of = LATER
    else:
        raise UserError(
            "There is nothing to measure retrieval on: give --truth, a table "
            "of true categories with a test split, or a log whose later clicks "
            "were set aside (mixer_jax.categories.aggregate --until)."
        )
    if not len(queries):
        raise UserError(f"There are no queries to measure on, of {of}.")
    chosen = np.random.default_rng(0).permutation(len(queries))[:_MOST]
    chosen.sort()
    return Exam(of, queries[chosen], items, [right[i] for i in chosen], trained)


def identical_at_1(
    shown: Shown, labels: np.ndarray, exam: Exam, linear: baselines.LinearMap
) -> float | None:
    """Trains the linear map on categories and asks it.

    Args:
      shown: the frozen features.
      labels: `[Q + I]` int, the categories; negative for none.
      exam: see `Exam`.
      linear: hyper-parameters.

    Returns:
      The share of the exam's queries whose nearest item is right; None if the
      categories have fewer than two queries with an item.
    """
    labels = np.where(exam.trained, labels, -1)
    queries, items = pairs(labels, shown.is_query, linear.seed)
    if len(queries) < 2:
        return None
    towers = baselines.train_linear_map(
        shown.image[queries], shown.document(items), labels[queries], linear
    )
    asked = baselines.apply_map(towers["query"], shown.image[exam.queries])
    gallery = baselines.apply_map(
        towers["document"], shown.document(exam.items)
    )
    asked, gallery = np.asarray(asked), np.asarray(gallery)
    nearest = [
        (asked[start : start + _BLOCK] @ gallery.T).argmax(axis=1)
        for start in range(0, len(asked), _BLOCK)
    ]
    answers = exam.items[np.concatenate(nearest)]
    hits = [
        answer in right
        for answer, right in zip(answers, exam.right, strict=True)
    ]
    return float(np.mean(hits))


def pairs(
    labels: np.ndarray, is_query: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws an item of its category for each query that has one.

    Args:
      labels: `[N]` int, negative for none.
      is_query: `[N]` bool.
      seed: of the draw.

    Returns:
      Rows of the queries and of their items, int `[P]` each.
    """
    queries = np.flatnonzero(is_query & (labels >= 0))
    items = np.flatnonzero(~is_query & (labels >= 0))
    items = items[np.argsort(labels[items], kind="stable")]
    first = np.searchsorted(labels[items], labels[queries], side="left")
    last = np.searchsorted(labels[items], labels[queries], side="right")
    there = last > first
    drawn = np.random.default_rng(seed).integers(first[there], last[there])
    return queries[there], items[drawn]


def write(result: dict[str, Any], folder: str | os.PathLike) -> paths.Path:
    """Writes sweep.json, which the report draws."""
    path = paths.make(folder) / "sweep.json"
    paths.deliver(path, json.dumps(result, indent=2) + "\n", "The sweep")
    return path


def check_out(folder: str | os.PathLike) -> None:
    """Raises a `UserError` unless `write` can write to a folder."""
    paths.check_file(paths.make(folder) / "sweep.json", "The sweep")


def lines(result: dict[str, Any]) -> str:
    """The points in a table for a terminal, the best first."""
    header = f"{'least':>5} {'neighbours':>10}"
    said = [f"{header} {'Identical@1':>12} {'B-cubed F1':>11}"]
    points = [(point, "") for point in result["points"]]
    points.append((result["used"], " in use"))
    points.sort(key=lambda p: -(p[0]["identical_at_1"] or 0.0))
    for point, mark in points:
        row = f"{point['least']:5.2f} {point['neighbours']:10}"
        for key, width in (("identical_at_1", 12), ("bcubed_f1", 11)):
            value = point.get(key)
            text = "-" if value is None else f"{value:.3f}"
            row += f" {text:>{width}}"
        said.append(row + mark)
    return "\n".join(said)


def _is_drawn(name: str) -> bool:
    """One query in ten, the same ones in every log."""
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 10 == 0
