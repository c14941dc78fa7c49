"""Runs a suite: validation trials, a choice, and final runs per method.

Trials are measured on `val`. The hyper-parameters with the best Identical@1
are then trained with each seed; only these final runs are measured on `test`.
A run is identified by a hash of all that its result depends on, so that a
suite continues where it was interrupted, and suites share their runs.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from mixer_jax.experiments import frozen, methods, objectives, ranking
from mixer_jax.experiments.folds import TEST, TRAIN, VAL, Fold
from mixer_jax.experiments.methods import Budget, Setting
from mixer_jax.experiments.results_log import FINAL, TRIAL, ResultsLog, Row
from mixer_jax.experiments.suites import Method
from mixer_jax.runtime import identity, progress
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint.checkpoints import Trained

FEATURES = "features"  # folder with the features of each data set


class Plan(NamedTuple):
    """The methods, data and budget of a suite.

    Attributes:
      suite: the name of the suite.
      methods: its methods.
      data: the folds of each data set.
      budget: what each method gets.
      image_size: the side of scaled images, in pixels.
      text_length: the maximum number of tokens.
    """

    suite: str
    methods: Sequence[Method]
    data: dict[str, list[Fold]]
    budget: Budget
    image_size: int
    text_length: int


class Run(NamedTuple):
    """One training run, or one measurement of frozen encoders.

    Attributes:
      kind: `results_log.TRIAL` or `results_log.FINAL`.
      method: the method.
      fold: the samples.
      hyper: the hyper-parameters; {} for methods without.
      seed: the seed of the training.
      trial: the number of the trial, or of the one chosen for a final run; -1
        for methods without trials.
    """

    kind: str
    method: Method
    fold: Fold
    hyper: dict[str, float]
    seed: int
    trial: int

    def key(self, plan: Plan) -> str:
        """Returns a hash of everything that the result depends on."""
        described = {
            "version": methods.VERSION,
            "kind": self.kind,
            "method": self.method.identity(),
            "data": self.fold.content,
            "hyper": self.hyper,
            "seed": self.seed,
            "steps": plan.budget.steps,
            "pairs": plan.budget.pairs,
            "image_size": plan.image_size,
            "text_length": plan.text_length,
        }
        return identity.hash_json(described)[:32]

    def labels(self, plan: Plan) -> Row:
        """Returns where the page shows the result."""
        return {
            "suite": plan.suite,
            "section": self.method.section,
            "method": self.method.name,
            "data": self.fold.data,
            "fold": self.fold.name,
        }


def run(
    plan: Plan,
    out: pathlib.Path,
    mesh: Mesh,
    say: Callable[[str], None],
) -> None:
    """Runs what `out/results.jsonl` does not have yet.

    Args:
      plan: what to run.
      out: an existing folder, for the results and the features.
      mesh: the devices for encoding, ranking and the project's heads; the other
        losses are trained on the first device.
      say: called with messages.

    Raises:
      UserError: if a method leaves out a part that a data set does not have,
        the results are damaged, or the disk is full.
    """
    _check_parts(plan)
    log = ResultsLog(out, say)
    try:
        suite = _Suite(plan, out, mesh, log, say)
        total = suite.missing()
        if not total:
            say(f"All runs of the suite {plan.suite} are finished.")
        label = f"Runs of the suite {plan.suite}"
        with progress.show(label, total) as count:
            for method, fold in suite.pairs():
                suite.measure(method, fold, count)
    finally:
        log.close()


def _check_parts(plan: Plan) -> None:
    """Checks that all parts that methods leave out exist."""
    for part in sorted({method.without for method in plan.methods} - {""}):
        name = f"{TRAIN}/{part}"
        for data, folds in plan.data.items():
            for fold in folds:
                if not (fold.frame["split"] == name).any():
                    raise UserError(
                        f"The suite {plan.suite} compares training with and "
                        f"without the part '{name}', which fold {fold.name} of "
                        f"{data} does not have; choose another --suite, or add "
                        "the part to the column `split`."
                    )


class _Suite:
    """A suite in progress."""

    def __init__(
        self,
        plan: Plan,
        out: pathlib.Path,
        mesh: Mesh,
        log: ResultsLog,
        say: Callable[[str], None],
    ):
        self._plan, self._out, self._mesh = plan, out, mesh
        self._log, self._say = log, say
        self._known = {row["key"]: row for row in log.rows}
        self._listed = {_place(row) for row in log.rows}
        self._settings: dict[str, Any] = {}

    def pairs(self) -> Iterator[tuple[Method, Fold]]:
        """Yields each method with each fold of each data set."""
        for folds in self._plan.data.values():
            for fold in folds:
                for method in self._plan.methods:
                    yield method, fold

    def missing(self) -> int:
        """Returns the number of runs to do, at most."""
        count = 0
        for method, fold in self.pairs():
            trials = [self._find(one) for one in self._trials(method, fold)]
            count += trials.count(None)
            if None in trials:
                count += len(methods.seeds(method, self._plan.budget))
            else:
                finals = self._finals(method, fold, trials)
                count += [self._find(one) for one in finals].count(None)
        return count

    def measure(
        self, method: Method, fold: Fold, count: Callable[[float], None]
    ) -> None:
        """Does the trials and the final runs of a method on a fold."""
        runner = functools.cache(
            lambda: methods.Runner(method, self._setting(fold))
        )
        trials = [
            self._do(one, runner, count) for one in self._trials(method, fold)
        ]
        for one in self._finals(method, fold, trials):
            self._do(one, runner, count)

    def _trials(self, method: Method, fold: Fold) -> list[Run]:
        space, count = methods.space(method), self._plan.budget.trials
        return [
            Run(TRIAL, method, fold, objectives.draw(space, n, count), 0, n)
            for n in range(count if space else 0)
        ]

    def _finals(
        self, method: Method, fold: Fold, trials: Sequence[Row]
    ) -> list[Run]:
        hyper, number = {}, -1
        if trials:
            number = max(range(len(trials)), key=lambda n: _score(trials[n]))
            hyper = trials[number]["hyper"]
        return [
            Run(FINAL, method, fold, hyper, seed, number)
            for seed in methods.seeds(method, self._plan.budget)
        ]

    def _find(self, one: Run) -> Row | None:
        return self._known.get(one.key(self._plan))

    def _do(
        self,
        one: Run,
        runner: Callable[[], methods.Runner],
        count: Callable[[float], None],
    ) -> Row:
        """Returns the row of a run, which is added unless it is listed."""
        key, labels = one.key(self._plan), one.labels(self._plan)
        known = self._known.get(key)
        row = known or {"kind": one.kind, "key": key}
        row = row | labels | ({} if known else self._result(one, runner()))
        self._known.setdefault(key, row)
        if _place(row) not in self._listed:
            self._listed.add(_place(row))
            self._log.add(row)
        if known is None:
            count(1)
        return row

    def _result(self, one: Run, runner: methods.Runner) -> Row:
        result = runner.run(one.hyper, one.seed)
        split = VAL if one.kind == TRIAL else TEST
        begin = time.perf_counter()
        found = ranking.rank(result.embed, one.fold.split(split), self._mesh)
        row = {
            "content": one.fold.content,
            "settings": one.method.identity(),
            "hyper": one.hyper,
            "seed": one.seed,
            "trial": one.trial,
            "budget": {
                **self._plan.budget._asdict(),
                "image_size": self._plan.image_size,
                "text_length": self._plan.text_length,
            },
            "split": split,
            "queries": len(found.ranks),
            "documents": found.documents,
            "measures": found.measures,
            # Hits at rank 1 and queries of each part.
            "parts": {name: list(part) for name, part in found.parts.items()},
            "figures": result.figures,
            "rank_seconds": round(time.perf_counter() - begin, 3),
        }
        if one.kind == FINAL:
            row["ranks"] = ranking.pack(found.ranks)
            row["categories"] = ranking.pack(found.categories)
        return row

    def _setting(self, fold: Fold) -> Setting:
        """Returns a fold's setting; computes features on first use."""
        if fold.data not in self._settings:
            plan = self._plan
            encoders: Trained = frozen.load(plan.image_size, plan.text_length)
            features = frozen.encode(
                encoders,
                plan.data[fold.data],
                self._out / FEATURES / fold.data,
                self._mesh,
                self._say,
            )
            self._settings = {fold.data: (encoders, features)}
        encoders, features = self._settings[fold.data]
        return Setting(fold, encoders, features, self._plan.budget, self._mesh)


def _score(row: Row) -> tuple[float, float]:
    """Returns what trials are compared by: Identical@1, then MRR."""
    measures = row["measures"]
    return measures["identical_at_1"], measures["mrr"]


def _place(row: Row) -> tuple[str, ...]:
    """Identifies a row: a run, and where it belongs."""
    return tuple(
        row[name]
        for name in ("key", "suite", "section", "method", "data", "fold")
    )
