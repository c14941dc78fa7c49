"""Scores of each method, from the rows of results.jsonl."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.experiments import ranking
from mixer_jax.experiments.results_log import FINAL, TRIAL, Row

# Measures in the table: (key, heading).
MEASURES = (
    ("identical_at_1", "Identical@1"),
    ("identical_at_5", "Identical@5"),
    ("map_at_r", "MAP@R"),
    ("mrr", "MRR"),
)


class Scores(NamedTuple):
    """The final runs of one method on one data set, Q queries of all folds.

    Attributes:
      hits: the share of seeds with a right first answer, f64 [Q].
      categories: the queries' categories, int [Q]; folds share none.
      by_seed: Identical@1 of each seed.
      measures: means over seeds and queries.
      rows: the rows of the final runs.
      trials: the rows of the validation trials.
      parts: Identical@1 of each part of the test split.
    """

    hits: np.ndarray
    categories: np.ndarray
    by_seed: list[float]
    measures: dict[str, float]
    rows: list[Row]
    trials: list[Row]
    parts: dict[str, float]


def group(rows: Iterable[Row], *names: str) -> dict[tuple, list[Row]]:
    """Returns the rows by their values of some keys, in order."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def current(rows: Sequence[Row]) -> list[Row]:
    """Leaves out runs on other data, or with other budgets, than the last."""
    # The files of two machines may have the same runs.
    rows = list({(row["key"], row["method"]): row for row in rows}.values())
    last = {row["fold"]: row["content"] for row in rows}

    def kind(row: Row) -> dict[str, Any]:
        """Returns the part of the budget that results depend on."""
        repeats = ("trials", "seeds")
        return {k: v for k, v in row["budget"].items() if k not in repeats}

    return [
        row
        for row in rows
        if row["content"] == last[row["fold"]] and kind(row) == kind(rows[-1])
    ]


def score(rows: Sequence[Row]) -> Scores | None:
    """Returns the scores of one method; None if it has no final run.

    Args:
      rows: all rows of a method on a data set. If a larger search has chosen
        other hyper-parameters, a fold's earlier final runs are left out.
    """
    folds = _final_runs(rows)
    if not folds:
        return None
    hits, categories, start = [], [], 0
    for finals in folds:
        ranks_QxS = np.stack(
            [ranking.unpack(row["ranks"]) for row in finals], 1
        )
        hits.append(ranks_QxS == 1)
        categories.append(ranking.unpack(finals[0]["categories"]) + start)
        start = int(categories[-1].max(initial=start)) + 1
    hits_QxS, category_Q = np.concatenate(hits), np.concatenate(categories)
    if len(hits_QxS) != len(category_Q):
        raise ValueError("ranks and categories differ in length")
    used = [row for finals in folds for row in finals]
    queries = [row["queries"] for row in used]
    means = {
        key: np.average([row["measures"][key] for row in used], weights=queries)
        for key, _ in MEASURES
    }
    return Scores(
        hits_QxS.mean(axis=1),
        category_Q,
        hits_QxS.mean(axis=0).tolist(),
        means,
        used,
        [row for row in rows if row["kind"] == TRIAL],
        _parts(used),
    )


def _parts(rows: Sequence[Row]) -> dict[str, float]:
    """Returns Identical@1 of each part, over all queries and seeds."""
    totals: dict[str, np.ndarray] = {}
    for row in rows:
        for name, counts in row["parts"].items():
            totals[name] = totals.get(name, 0) + np.array(counts, float)
    return {name: hits / queries for name, (hits, queries) in totals.items()}


def _final_runs(rows: Sequence[Row]) -> list[list[Row]]:
    """Returns each fold's final runs, the same number for each fold."""
    folds = []
    for some in group(rows, "fold").values():
        finals = [row for row in some if row["kind"] == FINAL]
        if finals:
            hyper = finals[-1]["hyper"]
            folds.append([row for row in finals if row["hyper"] == hyper])
    seeds = min(map(len, folds), default=0)
    return [finals[:seeds] for finals in folds]
