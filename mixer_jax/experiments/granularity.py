"""Effect of the granularity of categories on retrieval quality.

The finest categories are pure but carry little information; the coarsest carry
more, but much of it is wrong. To measure how much a model learns from the
categories, a linear map of frozen features is trained on the categories of each
granularity, which takes seconds, and evaluated on queries outside its training
set.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mixer_jax.categories import sweep
from mixer_jax.categories.evidence.graph import Features
from mixer_jax.categories.outcome import Outcome
from mixer_jax.categories.quality import against_truth
from mixer_jax.categories.settings import Settings
from mixer_jax.data.tables import table
from mixer_jax.data.tables.holdout import digest
from mixer_jax.experiments import baselines, finished
from mixer_jax.runtime import paths, progress
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError

KEPT = ".sweep-points.json"  # removed once sweep.json is written
TRUTH = "held-out true categories"
LATER = "later clicks"
_MAX_QUERIES = 2000  # maximum number of queries to evaluate
_BLOCK = 256  # queries scored at once, to bound memory


@dataclasses.dataclass(frozen=True)
class Exam:
    """Queries to evaluate, the items to search, and the relevant items.

    Attributes:
      of: the source of the relevant items, `TRUTH` or `LATER`.
      queries: `[T]` int, rows of the samples; no map is trained on them.
      items: `[G]` int, rows of the samples to search.
      right: `[T]` sets of rows, the relevant items of each query.
      trained: `[Q + I]` bool, whether each sample may be trained on.
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
      text: `[I, T]` f32, for the items only.
    """

    image: np.ndarray
    text: np.ndarray

    @classmethod
    def of(cls, features: Features) -> "Shown":
        """Returns normalized copies of the features used to find categories."""
        image = [features.query_image, features.item_image]
        return cls(
            normalize(np.concatenate(image)), normalize(features.item_text)
        )

    @property
    def is_query(self) -> np.ndarray:
        """Whether each sample is a query, bool `[Q + I]`."""
        rows = np.arange(len(self.image))
        return rows < len(self.image) - len(self.text)

    def document(self, rows: np.ndarray) -> np.ndarray:
        """Returns image and text features of some items, `[N, C + T]`."""
        text = self.text[rows - (len(self.image) - len(self.text))]
        return np.concatenate([self.image[rows], text], axis=1)


def measure(
    outcome: Outcome,
    threshold: Sequence[float] = sweep.THRESHOLDS,
    neighbors: Sequence[int] = sweep.NEIGHBORS,
    linear: baselines.LinearMap | None = None,
    kept: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Evaluates the categories of a grid of settings.

    Args:
      outcome: the samples of a log, with their true categories if known.
      threshold: affinity thresholds to try.
      neighbors: numbers of neighbors, k, to try.
      linear: hyper-parameters of the map; the defaults if None.
      kept: the file that keeps each figure as soon as it is known, so that an
        interrupted call can be repeated; None for no file.

    Returns:
      A dict with exam, `TRUTH` or `LATER`; queries and items, the number of
      each; true_categories, Identical@1 of a map trained on the truth,
      None without a truth; used, the figures of categorize's default settings;
      and points, the figures of each setting: threshold, neighbors,
      identical_at_1, categories, noise_share, seconds, and with a truth
      bcubed_f1.

    Raises:
      UserError: if there are no features, or nothing to evaluate on.
    """
    if outcome.features is None:
        raise UserError(
            "There are no features for these samples; run categorize again to "
            "write features.npz."
        )
    linear = linear or baselines.LinearMap()
    exam, shown = make_exam(outcome), Shown.of(outcome.features)
    truth = outcome.samples.get("truth")
    known = finished.Finished(kept, _identify(outcome, exam, linear))
    result = {
        "exam": exam.of,
        "queries": len(exam.queries),
        "items": len(exam.items),
        "true_categories": None,
    }
    if truth is not None:
        codes, _ = pd.factorize(truth)
        labels = np.where(truth == "", -1, codes)
        result["true_categories"] = known.once(
            "true", lambda: identical_at_1(shown, labels, exam, linear)
        )

    def line(point: sweep.Point) -> dict[str, Any]:
        labels = point.labels
        figures = {
            "threshold": point.threshold,
            "neighbors": point.neighbors,
            "identical_at_1": identical_at_1(shown, labels, exam, linear),
            "categories": len(np.unique(labels[labels >= 0])),
            "noise_share": float((labels < 0).mean()),
            "seconds": point.seconds,
        }
        if truth is not None:
            given = (truth != "").to_numpy()
            figures["bcubed_f1"] = against_truth.against_truth(
                labels[given], truth[given].to_numpy()
            )["bcubed_f1"]
        return figures

    asked = (outcome.features, outcome.log.clicks)
    result["used"] = known.once(
        "used", lambda: line(sweep.find_point(*asked, Settings()))
    )
    grid = [(k, at) for k in neighbors for at in threshold]
    left = [pair for pair in grid if str(pair) not in known]
    points = itertools.chain.from_iterable(
        sweep.sweep(*asked, [at for _, at in group], [k])
        for k, group in itertools.groupby(left, lambda pair: pair[0])
    )
    points = progress.track(points, "Measuring granularities", len(left))
    for pair, point in zip(left, points, strict=True):
        known.add(str(pair), line(point))
    result["points"] = [known[str(pair)] for pair in grid]
    return result


def _identify(outcome: Outcome, exam: Exam, linear: baselines.LinearMap) -> str:
    """Returns a hash of everything that a setting's figures depend on."""
    features = outcome.features
    clicks = outcome.log.clicks
    truth = outcome.samples.get("truth", pd.Series(dtype=str))
    return finished.identify(
        [features.query_image, features.item_image, features.item_text]
        + [clicks[name].to_numpy() for name in sorted(clicks)]
        + [exam.queries, exam.items, exam.trained],
        *(str(sorted(rows)) for rows in exam.right),
        *truth,
        f"{exam.of} {linear} {Settings()}",
    )


def make_exam(outcome: Outcome) -> Exam:
    """Chooses the queries, the gallery and the relevant items.

    If true categories are held out, the queries are the held-out queries that
    have a held-out item of their category. Otherwise, they are a tenth of the
    queries with later clicks, drawn by a hash of their IDs; the relevant items
    are those that were clicked.

    Raises:
      UserError: if there are neither held-out categories nor later clicks, or
        none of them has a query.
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
            "There is nothing to measure retrieval on: pass a table of true "
            "categories with a test split as --truth, or a log whose later "
            "clicks were set aside (mixer_jax.categories.aggregate --until)."
        )
    if not len(queries):
        raise UserError(
            f"Retrieval cannot be measured: there are no queries with {of}."
        )
    chosen = np.random.default_rng(0).permutation(len(queries))[:_MAX_QUERIES]
    chosen.sort()
    return Exam(of, queries[chosen], items, [right[i] for i in chosen], trained)


def identical_at_1(
    shown: Shown, labels: np.ndarray, exam: Exam, linear: baselines.LinearMap
) -> float | None:
    """Returns Identical@1 of a linear map trained on categories.

    Args:
      shown: the frozen features.
      labels: `[Q + I]` int, the categories; negative for none.
      exam: see `Exam`.
      linear: hyper-parameters.

    Returns:
      The share of the exam's queries whose nearest item is relevant; None if
      the categories have fewer than two queries with an item.
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
    """Pairs each query with a random item of its category, if there is one.

    Args:
      labels: `[N]` int, negative for none.
      is_query: `[N]` bool.
      seed: the random seed.

    Returns:
      Rows of the queries and of their items, int `[P]` each.
    """
    queries = np.flatnonzero(is_query & (labels >= 0))
    items = np.flatnonzero(~is_query & (labels >= 0))
    items = items[np.argsort(labels[items], kind="stable")]
    first = np.searchsorted(labels[items], labels[queries], side="left")
    last = np.searchsorted(labels[items], labels[queries], side="right")
    filled = last > first
    drawn = np.random.default_rng(seed).integers(first[filled], last[filled])
    return queries[filled], items[drawn]


def write(result: dict[str, Any], folder: str | os.PathLike) -> paths.Path:
    """Writes sweep.json, which the report plots; deletes the saved figures."""
    path = paths.make(folder) / "sweep.json"
    paths.deliver(path, json.dumps(result, indent=2) + "\n", "The sweep")
    (path.parent / KEPT).unlink(missing_ok=True)
    return path


def check_out(folder: str | os.PathLike) -> None:
    """Raises a `UserError` unless `write` can write to a folder."""
    for name in ("sweep.json", KEPT):
        paths.check_file(paths.make(folder) / name, "The sweep")


def lines(result: dict[str, Any]) -> str:
    """Returns the points as a table for the terminal, best first."""
    header = f"{'threshold':>9} {'neighbors':>10}"
    rows = [f"{header} {'Identical@1':>12} {'B-cubed F1':>11}"]
    points = [(point, "") for point in result["points"]]
    points.append((result["used"], " in use"))
    points.sort(key=lambda p: -(p[0]["identical_at_1"] or 0.0))
    for point, mark in points:
        row = f"{point['threshold']:9.2f} {point['neighbors']:10}"
        for key, width in (("identical_at_1", 12), ("bcubed_f1", 11)):
            value = point.get(key)
            text = "-" if value is None else f"{value:.3f}"
            row += f" {text:>{width}}"
        rows.append(row + mark)
    return "\n".join(rows)


def _is_drawn(name: str) -> bool:
    """Returns whether to sample a query: one in ten, by a hash of its ID."""
    return digest(name) % 10 == 0
