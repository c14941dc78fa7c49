"""Compares two models on the same held-out queries.

The new model counts as worse if its MAP is significantly lower: if the 95%
confidence interval of the mean difference lies below minus the tolerance. The
standard error is that of a mean over clusters, since queries of one category
tend to succeed or fail together.

References:
  Cameron and Miller, "A practitioner's guide to cluster-robust inference",
  Journal of Human Resources 50(2), 2015, section II.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict
from scipy import stats

from mixer_jax.data.tables import table as table_lib
from mixer_jax.retrieval import embed, evaluate, metrics, runs
from mixer_jax.runtime.errors import UserError

BETTER, NOT_WORSE, WORSE = "better", "not worse", "worse"
UNKNOWN = "unknown"  # there are too few held-out categories
MEASURES = ("map", "identical_at_1")  # the first one decides the verdict
COUNTED = "counted"
SPLIT, DISTRACTORS = "test/forward", "train/forward"
# Exceptions raised on reading a damaged JSON file.
DAMAGE = (IsADirectoryError, ValueError, LookupError, TypeError, RecursionError)
_CONFIDENCE = 0.95
_BATCH = 256  # samples embedded at once
_REMEDY = (
    "compare the models with launch/daily.sh or python -m mixer_jax.compare"
)


class Difference(NamedTuple):
    """A measure of both models.

    Attributes:
      current: the mean over queries with the current model.
      new: likewise, with the new model.
      error: the standard error of the difference; None with one category.
      low, high: the confidence interval of the difference, new - current; None
        with one category.
    """

    current: float
    new: float
    error: float | None
    low: float | None
    high: float | None


def compare(
    current: str | os.PathLike,
    new: str | os.PathLike,
    path: str | os.PathLike,
    mesh: Mesh,
    *,
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """Returns measures of two models, and which one is better.

    Queries of the split test rank its documents together with those of the
    split train. If the splits have parts, only the parts forward are used: the
    parts reverse repeat the same samples.

    Args:
      current: the workdir or bundle of the model in use.
      new: the workdir or bundle of the model that may replace it.
      path: the sample table, with categories that neither was trained on.
      mesh: the devices for embedding and search.
      tolerance: the tolerated decrease of the MAP.

    Returns:
      `verdict` ("better", "not worse", "worse" or "unknown"), `tolerance`, the
      numbers of `queries`, `categories` and `documents`, and the fields of a
      `Difference` for each of `MEASURES`; None without a held-out query.

    Raises:
      UserError: if a model is missing, or the table is invalid.
    """
    models = [runs.find_models(folder)[-1].workdir for folder in (current, new)]
    frame = _read(path)
    if frame is None:
        return _nothing(tolerance)
    root = table_lib.folder(path)
    found = [_measure(folder, frame, root, mesh) for folder in models]
    is_query = (frame["role"] == table_lib.QUERY).to_numpy()
    counted = found[0][COUNTED]  # the same for both
    categories = frame["category_id"][is_query][counted]
    if categories.empty:
        return _nothing(tolerance)
    differences = {
        name: difference(*(one[name][counted] for one in found), categories)
        for name in MEASURES
    }
    return {
        "verdict": judge(differences[MEASURES[0]], tolerance),
        "tolerance": tolerance,
        "queries": len(categories),
        "categories": categories.nunique(),
        "documents": int((~is_query).sum()),
        **{name: one._asdict() for name, one in differences.items()},
    }


def _nothing(tolerance: float) -> dict[str, Any]:
    """Returns the result if there is no held-out query."""
    counts = dict.fromkeys(("queries", "categories", "documents"), 0)
    measures = dict.fromkeys(MEASURES)
    return {"verdict": UNKNOWN, "tolerance": tolerance, **counts, **measures}


def _read(path: str | os.PathLike) -> pd.DataFrame | None:
    """Returns the held-out queries and all documents; None if none is usable.

    Queries without a document of their category are left out.
    """
    frame = table_lib.read_table(path)
    names = set(frame["split"])
    pair = (SPLIT, DISTRACTORS) if SPLIT in names else ("test", "train")
    settings = ConfigDict({"split": pair[0], "distractors": pair[1]})
    rows = frame[frame["split"] == settings.split]
    is_query = rows["role"] == table_lib.QUERY
    held_out = rows["category_id"]
    if not held_out[is_query].isin(held_out[~is_query]).any():
        return None
    # Categories of a click log may lack queries or documents.
    return evaluate.read(path, settings, 1.0)[0]


def _measure(
    folder: str | os.PathLike, frame: pd.DataFrame, root: Any, mesh: Mesh
) -> dict[str, np.ndarray]:
    """Returns the measures of a model for each query, f64 `[Q]` by name.

    `COUNTED`, bool `[Q]`, is false for queries without a document of their
    category that shows another image.
    """
    trained = runs.load(folder, mesh)
    embedder = embed.make_embedder(trained, root, mesh, _BATCH)
    is_query = frame["role"] == table_lib.QUERY
    queries, documents = (
        evaluate.make_samples(rows, root, embedder)
        for rows in (frame[is_query], frame[~is_query])
    )
    found: dict[str, list[np.ndarray]] = {m: [] for m in (*MEASURES, COUNTED)}
    for block in evaluate.rank(queries, documents, mesh):
        top = documents.categories[block.top[:, 0]]
        hit = (block.top[:, 0] >= 0) & (top == queries.categories[block.rows])
        found["map"].append(metrics.average_precision(block.positions))
        found["identical_at_1"].append(hit.astype(np.float64))
        found[COUNTED].append((block.positions > 0).any(axis=1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def difference(
    current: np.ndarray, new: np.ndarray, categories: np.ndarray | pd.Series
) -> Difference:
    """Returns the means of a measure, and the interval of their difference.

    Args:
      current: the values of Q queries, f64 `[Q]`.
      new: the values of the same queries, f64 `[Q]`.
      categories: the category of each query, `[Q]`.

    >>> gains = np.array([0.5, 0, 0, 0.5])
    >>> found = difference(np.zeros(4), gains, list("abcd"))
    >>> round(found.new, 2), round(found.low, 2), round(found.high, 2)
    (0.25, -0.21, 0.71)
    """
    codes = pd.factorize(np.asarray(categories, object))[0]
    means = float(np.mean(current)), float(np.mean(new))
    count = int(codes.max()) + 1
    if count < 2:
        return Difference(*means, None, None, None)
    gain = np.asarray(new, np.float64) - current
    sums = np.bincount(codes, gain - gain.mean())
    spread = np.sqrt(count / (count - 1) * np.square(sums).sum())
    error = float(spread) / len(gain)
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * error
    mean = means[1] - means[0]
    return Difference(*means, error, mean - reach, mean + reach)


def judge(found: Difference, tolerance: float) -> str:
    """Returns the verdict about the new model."""
    if found.low is None or found.high is None:
        return UNKNOWN
    if found.high < -tolerance:
        return WORSE
    return BETTER if found.low > 0 else NOT_WORSE


def lines(figures: dict[str, Any]) -> str:
    """Returns the figures of `compare` for a terminal."""
    verdict = figures["verdict"]
    if not figures["queries"]:
        return "There is no held-out query with a document of its category."
    text = [
        f"{figures['queries']:,} held-out queries of {figures['categories']:,} "
        f"categories, {figures['documents']:,} documents:"
    ]
    headings = {key: heading for key, heading, _ in metrics.DEFINITIONS}
    for name in MEASURES:
        one = Difference(**figures[name])
        text.append(f"  {headings[name]}: {_describe(one)}")
    return "\n".join([*text, f"The new model is: {verdict}"])


def _describe(one: Difference) -> str:
    gain = f"{one.current:.3f} -> {one.new:.3f} ({one.new - one.current:+.3f}"
    if one.low is None or one.high is None:
        return f"{gain})"
    return f"{gain}, 95% interval {one.low:+.3f} to {one.high:+.3f})"


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the figures of `compare` from a file.

    Raises:
      UserError: if it is missing or damaged.
    """
    try:
        figures = json.loads(pathlib.Path(path).read_text("utf-8"))
        if figures["verdict"] not in (BETTER, NOT_WORSE, WORSE, UNKNOWN):
            raise ValueError("unknown verdict")
        return figures
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"There is no {path}; first {_REMEDY}.") from error
    except DAMAGE as error:
        message = f"{path} is damaged; remove it, and {_REMEDY}."
        raise UserError(message) from error
