"""Calibrated scores: the probability that an answer shows the same thing.

A calibration maps the cosine of a query picture and an answer to the share of
such answers that are in the query's category. The map is fitted on held-out
queries, by isotonic regression: it never falls as the cosine rises. Its error
is measured by cross-validation, on queries not used for the fit. The nearest
answer to a query has a map of its own, because at the same cosine it is right
more often than the others.

The share depends on the catalog: the more documents there are, the more of them
are near a query by chance. A calibration therefore records the size of its
catalog.
"""

import functools
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from mixer_jax.runtime import processes
from mixer_jax.runtime.errors import UserError

FOLDS = 5  # of the cross-validation
ANSWERS = 5  # nearest documents per query that are counted
MIN_QUERIES = 100
_STEPS = 1000  # resolution: steps of 1 / 1000
_COSINES = np.arange(-_STEPS, _STEPS + 1) / _STEPS
_LARGE_ERROR = 0.1  # above this, `Calibration.warning` advises
_BINS = 10  # of equal width, for the calibration error


class Curve(NamedTuple):
    """A map from cosines to probabilities, which never decreases.

    Attributes:
      cosines: K increasing cosines.
      probabilities: their K probabilities; values in between are interpolated,
        and values outside equal the nearest of the K.
    """

    cosines: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, cosines: Any) -> np.ndarray:
        """Returns probabilities, f64 with the shape of `cosines`."""
        return np.interp(cosines, *self)


class Calibration(NamedTuple):
    """Maps from cosines to probabilities, and how they were measured.

    Attributes:
      nearest: the map for the nearest answer to a query.
      others: the map for all other answers.
      queries: the number of queries.
      documents: the mean number of documents that a query was compared with.
      error: the expected calibration error of all answers, from 0 to 1.
      first_error: the same error for the nearest answers alone.
      step: the training step of the model.
    """

    nearest: Curve
    others: Curve
    queries: int
    documents: int
    error: float
    first_error: float
    step: int

    def rate(self, cosines: Sequence[float], offset: int = 0) -> np.ndarray:
        """Returns the probabilities of answers, which never increase.

        Args:
          cosines: `[K]`, those of answers to one query, nearest first.
          offset: the number of nearer answers left out.

        Returns:
          f64 `[K]`.
        """
        # Where the maps cross, an answer could be less likely than a later one.
        found = np.minimum(self.others(cosines), self.nearest(cosines))
        if not offset and len(found):
            found[0] = self.nearest(cosines[0])
        return found

    def dumps(self) -> str:
        """Returns the calibration as JSON, for `loads`."""
        return json.dumps(self._asdict())

    def __str__(self) -> str:
        """Returns a human-readable summary."""
        return (
            f"expected calibration error {100 * self.error:.1f}% "
            f"({100 * self.first_error:.1f}% for nearest answers), on "
            f"{self.queries:,} queries of a catalog of {self.documents:,} "
            "documents"
        )

    def warning(self) -> str:
        """Returns advice if nearest answers have a large error, else ""."""
        if self.first_error <= _LARGE_ERROR:
            return ""
        return (
            "warning: the probabilities of nearest answers are off by "
            f"{100 * self.first_error:.0f}% on average; for reliable ones, "
            "calibrate with more queries, from more categories"
        )


@functools.lru_cache(maxsize=8)
def loads(text: str) -> Calibration:
    """Returns a calibration written by `Calibration.dumps`."""
    return parse(json.loads(text))


def parse(found: Mapping[str, Any]) -> Calibration:
    """Returns a calibration from parsed JSON.

    Raises:
      KeyError, TypeError, ValueError: if it is damaged.
    """
    made = Calibration(**found)
    counts = int(made.queries), int(made.documents)
    errors = float(made.error), float(made.first_error)
    curves = _parse_curve(made.nearest), _parse_curve(made.others)
    return Calibration(*curves, *counts, *errors, int(made.step))


def _parse_curve(found: Sequence[Sequence[float]]) -> Curve:
    cosines, shares = (np.array(one, np.float64) for one in found)
    if not (cosines.ndim == 1 and 0 < len(cosines) == len(shares)):
        raise ValueError("a calibration needs a probability for each cosine")
    if (np.diff(cosines) <= 0).any() or (np.diff(shares) < 0).any():
        raise ValueError("a calibration must not decrease")
    if not (shares >= 0).all() or not (shares <= 1).all():
        raise ValueError("probabilities must be from 0 to 1")
    return Curve(tuple(cosines.tolist()), tuple(shares.tolist()))


class Tally:
    """Counts right and wrong answers by cosine, in constant memory.

    Attributes:
      answers: int64 `[FOLDS, 2, C, 2]`: by fold, by rank (nearest and other
        answers), by cosine, wrong and right.
      queries: the number of queries.
      documents: the sum over queries of the number of their documents.
    """

    def __init__(self):
        """Creates an empty tally."""
        self.answers = np.zeros((FOLDS, 2, len(_COSINES), 2), np.int64)
        self.queries = 0
        self.documents = 0

    def add(
        self,
        categories: np.ndarray,
        cosines: np.ndarray,
        is_right: np.ndarray,
        *,
        documents: int,
        exists: np.ndarray | None = None,
    ) -> None:
        """Counts the answers to Q queries.

        Args:
          categories: int `[Q]`, the queries' categories, from 0. Queries of a
            category are in the same fold, because their answers are alike.
          cosines: `[Q, K]`, nearest first.
          is_right: bool `[Q, K]`, whether answers are in the query's category.
          documents: the number of documents compared.
          exists: bool `[Q, K]`, False where there is no answer; default: all.
        """
        fold = np.broadcast_to(categories[:, None] % FOLDS, cosines.shape)
        rank = np.broadcast_to(np.arange(cosines.shape[1]) > 0, cosines.shape)
        known = np.ones(cosines.shape, bool) if exists is None else exists
        near = np.clip(cosines[known].astype(np.float64), -1, 1)
        place = np.rint(near * _STEPS).astype(np.int64) + _STEPS
        kind = fold[known], rank[known].astype(int), place
        np.add.at(self.answers, (*kind, is_right[known].astype(int)), 1)
        self.queries += len(categories)
        self.documents += documents * len(categories)

    def collect(self) -> "Tally":
        """Returns the sum of the tallies of all processes."""
        (places,) = np.nonzero(self.answers.ravel())
        counts = self.answers.ravel()[places]
        own = places.tolist(), counts.tolist(), self.queries, self.documents
        total = Tally()
        for places, counts, queries, documents in processes.gather(
            "answers", own
        ):
            # An empty list would become an array of floats.
            where, more = np.array([places, counts], np.int64)
            total.answers.ravel()[where] += more
            total.queries += queries
            total.documents += documents
        return total


def merge(tallies: Iterable[Tally]) -> Tally:
    """Returns the sum of tallies."""
    total = Tally()
    for one in tallies:
        total.answers += one.answers
        total.queries += one.queries
        total.documents += one.documents
    return total


def fit(tally: Tally, step: int) -> Calibration:
    """Fits a calibration, and measures its error by cross-validation.

    Args:
      tally: the answers to held-out queries.
      step: the training step of the model.

    Raises:
      UserError: if there are too few queries.
    """
    queries = tally.queries
    if queries < MIN_QUERIES or not tally.answers[:, 0].any((1, 2)).all():
        raise UserError(
            f"A calibration needs at least {MIN_QUERIES} queries of at least "
            f"{FOLDS} categories; there are {queries} queries."
        )
    nearest, others = map(_curve, tally.answers.sum(axis=0))
    error, first_error = _errors(tally)
    return Calibration(
        nearest,
        others,
        queries,
        round(tally.documents / queries),
        error,
        first_error,
        step,
    )


def choose(rows: Iterable[Mapping[str, Any]], step: int) -> Calibration | None:
    """Returns a model's calibration with the most queries and documents.

    Args:
      rows: the model's rows from `retrieval.evaluate`.
      step: the model's training step; those of other steps are ignored.

    Raises:
      UserError: if a calibration is damaged.
    """
    found = [row.get("calibration") for row in rows]
    try:
        known = [parse(one) for one in found if one is not None]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"A calibration in the evaluation rows is damaged ({error!r}); "
            "evaluate the model again."
        ) from error
    size = operator.attrgetter("queries", "documents")
    return max((o for o in known if o.step == step), key=size, default=None)


def try_fit(tally: Tally, step: int) -> Calibration | None:
    """Like `fit`, but returns None if there are too few queries."""
    try:
        return fit(tally, step)
    except UserError:
        return None


def _curve(counts: np.ndarray) -> Curve:
    """Fits a map to counts, int `[C, 2]`.

    A right answer is added at the lowest cosine, and a wrong one at the highest
    one, since no finite sample can show that a probability is 0 or 1.
    """
    if not counts.any():
        return Curve((0.0,), (1.0,))  # there are no other answers
    counts = counts.copy()
    (places,) = np.nonzero(counts.sum(axis=1))
    counts[places[0], 1] += 1
    counts[places[-1], 0] += 1
    totals = counts[places].sum(axis=1)
    fitted = optimize.isotonic_regression(
        counts[places, 1] / totals, weights=totals
    )
    # Both ends of each constant piece; those of single cosines coincide.
    ends = np.unique([fitted.blocks[:-1], fitted.blocks[1:] - 1])
    shares = np.clip(fitted.x[ends], 0, 1).round(6)
    return Curve(tuple(_COSINES[places[ends]].tolist()), tuple(shares.tolist()))


def _errors(tally: Tally) -> tuple[float, float]:
    """Returns the expected calibration errors of all and of nearest answers.

    Each fold is predicted by a fit to the others. Answers are grouped by their
    predicted probability; the error is the mean over all answers of the
    difference between their group's mean prediction and its share of right
    answers.
    """
    sums = np.zeros((2, _BINS, 2))  # by rank: predicted, right
    for fold, answers in enumerate(tally.answers):
        rest = np.delete(tally.answers, fold, axis=0).sum(axis=0)
        nearest, others = (_curve(counts)(_COSINES) for counts in rest)
        both = nearest, np.minimum(others, nearest)
        for rank, (counts, predicted) in enumerate(
            zip(answers, both, strict=True)
        ):
            bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
            total, right = counts.sum(axis=1), counts[:, 1]
            np.add.at(sums[rank, :, 0], bins, predicted * total)
            np.add.at(sums[rank, :, 1], bins, right)
    counted = tally.answers.sum((0, 2, 3))

    def error(chosen: np.ndarray, count: int) -> float:
        return float(np.abs(chosen[:, 0] - chosen[:, 1]).sum() / max(count, 1))

    return error(sums.sum(0), counted.sum()), error(sums[0], counted[0])
