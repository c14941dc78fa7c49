"""HTML page of the results of `python -m mixer_jax.experiments`.

It is written from results.jsonl alone. If runs were repeated on other data or
with another budget, only those like the last one in the file are shown.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
import numpy as np

from mixer_jax.experiments import results_log, suites
from mixer_jax.experiments.results_log import FINAL, Row
from mixer_jax.reports import bootstrap, page, plots, templates
from mixer_jax.reports import scores as scores_lib
from mixer_jax.reports.results import Cell, make_cells, percent
from mixer_jax.reports.scores import MEASURES, Scores
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError


class Line(NamedTuple):
    """One method's line in a table.

    Attributes:
      method: its name.
      ours: whether the others are compared with it.
      cells: its figures.
      note: the number of its folds, if others have more.
    """

    method: str
    ours: bool
    cells: tuple[Cell, ...]
    note: str = ""


class Section(NamedTuple):
    """One table and its plots.

    Attributes:
      title: the heading.
      reference: the method that the others are compared with.
      lines: the lines of the table.
      differences: the plot of the differences; None with a single method.
      tradeoff: the plot of quality against time, with the names of its curves;
        None except for heads.
    """

    title: str
    reference: str
    lines: list[Line]
    differences: markupsafe.Markup | None
    tradeoff: tuple[list[str], markupsafe.Markup] | None


class Search(NamedTuple):
    """The validation trials of a method on a fold."""

    method: str
    fold: str
    values: str  # Identical@1 of each trial, in percent
    chosen: str  # the chosen hyper-parameters


def build(
    folder: str | os.PathLike,
    path: str | os.PathLike = "",
    say: Callable[[str], None] = lambda text: None,
) -> paths.Path:
    """Writes the page.

    Args:
      folder: the `--out` of the experiments.
      path: the path of the page; "" for `folder/report/index.html`.
      say: called with a message if the last line is incomplete.

    Returns:
      The path of the page.

    Raises:
      UserError: if there are no results, or they are damaged.
    """
    folder = paths.local(folder, "The folder of experiments")
    file = folder / results_log.NAME
    rows, _, cut = results_log.read(file)
    if cut:
        say(f"{file}: the last line is incomplete and left out.")
    if not any(row["kind"] == FINAL for row in rows):
        raise UserError(
            f"{folder} has no finished method in {results_log.NAME}; run "
            "python -m mixer_jax.experiments with this folder as --out."
        )
    title = paths.absolute(folder).name
    return page.write(
        path or folder / "report" / "index.html",
        lambda: render(title, rows, file),
    )


def render(title: str, rows: Sequence[Row], file: os.PathLike) -> str:
    """Returns the page.

    Args:
      title: the title of the page.
      rows: the rows of results.jsonl, with at least one final run.
      file: its path, for messages.

    Raises:
      UserError: if the row of a final run lacks values.
    """
    try:
        data = [
            _data(suite, name, scores_lib.current(some))
            for (suite, name), some in scores_lib.group(
                rows, "suite", "data"
            ).items()
            if any(row["kind"] == FINAL for row in some)
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} has a row without the expected values ({error!r}); it was "
            "written by another version. Choose another --out, and run the "
            "experiments again."
        ) from error
    return templates.render(
        "experiments.html",
        title=title,
        data=data,
        headings=[heading for _, heading in MEASURES],
    )


def _data(suite: str, name: str, rows: list[Row]) -> dict[str, Any]:
    """Returns the values of the template for one suite and data set."""
    scores = {
        method: found
        for (method,), some in scores_lib.group(rows, "method").items()
        if (found := scores_lib.score(some)) is not None
    }
    first = max(scores.values(), key=lambda one: len(one.hits))
    parts = sorted({name for one in scores.values() for name in one.parts})
    sections = scores_lib.group((s.rows[0] for s in scores.values()), "section")
    return {
        "suite": suite,
        "name": name,
        "budget": rows[-1]["budget"],
        "queries": f"{len(first.hits):,}",
        "categories": f"{len(np.unique(first.categories)):,}",
        "documents": f"{max(row['documents'] for row in rows):,}",
        "folds": sorted({row["fold"] for row in rows}),
        "sections": [
            make_section(title, [row["method"] for row in some], scores)
            for (title,), some in sections.items()
        ],
        "parts": parts,
        "by_part": _by_part(parts, scores),
        "searches": [
            one
            for method in scores
            for one in _searches(method, scores[method])
        ],
    }


def _by_part(names: Sequence[str], scores: Mapping[str, Scores]) -> list[Line]:
    """Returns a line with Identical@1 of each part for each method."""
    notes = _notes(scores)
    whole = [one for method, one in scores.items() if not notes[method]]
    best = [
        percent(max(one.parts.get(name, 0.0) for one in whole))
        for name in names
    ]
    return [
        Line(
            method,
            method in suites.REFERENCES,
            make_cells([percent(one.parts.get(name)) for name in names], best),
            notes[method],
        )
        for method, one in scores.items()
    ]


def _notes(scores: Mapping[str, Scores]) -> dict[str, str]:
    """Returns "2 of 5 folds" for methods that were not measured on all folds.

    Their figures are of fewer queries, so they are never the best.
    """
    counts = {
        method: len({row["fold"] for row in one.rows})
        for method, one in scores.items()
    }
    most = max(counts.values())
    return {
        method: "" if count == most else f"{count} of {most} folds"
        for method, count in counts.items()
    }


def make_section(
    title: str, methods: Sequence[str], scores: Mapping[str, Scores]
) -> Section:
    """Returns the table and the plots of some methods.

    Args:
      title: the heading.
      methods: the methods of the section.
      scores: the scores of all methods of the suite.
    """
    reference = next(
        (one for one in suites.REFERENCES if one in methods),
        suites.REFERENCES[-1],
    )
    shown = list(methods)
    if reference in scores and reference not in shown:
        shown.append(reference)
    ours = scores.get(reference)
    differences = {
        method: difference
        for method in shown
        if method != reference
        and (difference := _compare(scores[method], ours)) is not None
    }
    notes = _notes(scores)
    whole = [method for method in shown if not notes[method]]
    best = [
        percent(max((scores[m].measures[key] for m in whole), default=None))
        for key, _ in MEASURES
    ]
    lines = [
        Line(
            method,
            method == reference,
            _cells(scores[method], best, differences.get(method)),
            notes[method],
        )
        for method in shown
    ]
    return Section(
        title,
        reference if ours else "",
        lines,
        _plot_differences(title, differences, reference),
        _plot_tradeoff({method: scores[method] for method in shown}),
    )


def _cells(
    one: Scores,
    best: Sequence[str],
    difference: bootstrap.Difference | None,
) -> tuple[Cell, ...]:
    measures = [percent(one.measures[key]) for key, _ in MEASURES]
    details = [Cell(text, False) for text in _details(one, difference)]
    return (*make_cells(measures, best), *details)


def _compare(one: Scores, ours: Scores | None) -> bootstrap.Difference | None:
    """Returns one method minus ours, in points; None for other queries."""
    if ours is None or not np.array_equal(one.categories, ours.categories):
        return None
    found = bootstrap.compare(one.hits, ours.hits, one.categories)
    return bootstrap.Difference(*(100 * value for value in found))


def _details(
    one: Scores, difference: bootstrap.Difference | None
) -> tuple[str, ...]:
    """Returns the spread over seeds, the difference, and the time per run."""
    spread = text = percent(None)
    if len(one.by_seed) > 1:
        spread = f"{100 * np.std(one.by_seed, ddof=1):.1f}"
    if difference is not None:
        value, low, high = map(_signed, difference)
        text = f"{value} [{low}, {high}]"
    times = [row["figures"]["train_seconds"] for row in one.rows]
    return spread, text, f"{np.mean(times):.1f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _plot_differences(
    title: str, differences: Mapping[str, Any], reference: str
) -> markupsafe.Markup | None:
    if not differences:
        return None
    ordered = sorted(differences.items(), key=lambda item: -item[1].value)
    return plots.intervals(
        {method: tuple(difference) for method, difference in ordered},
        f"{title}: Identical@1 minus that of {reference}",
        "difference, percentage points",
        0.0,
    )


def _plot_tradeoff(
    scores: Mapping[str, Scores],
) -> tuple[list[str], markupsafe.Markup] | None:
    """Plots quality against time per step, one curve per head and share."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for one in scores.values():
        settings = dict(one.rows[0]["settings"].get("head", ()))
        if not settings:
            return None
        name = settings["name"]
        if name != "exact":
            name += f", M = {one.rows[0]['figures']['active']:.0%}"
        step = np.median([row["figures"]["step_ms"] for row in one.rows])
        point = float(step), 100 * one.measures["identical_at_1"]
        curves.setdefault(name, []).append(point)
    series = {
        name: tuple(zip(*points, strict=True))
        for name, points in curves.items()
    }
    svg = plots.curves(
        series,
        "Identical@1 against the time per step",
        ("time per step, ms", "Identical@1, percent"),
    )
    return list(series), svg


def _searches(method: str, one: Scores) -> list[Search]:
    found = []
    for (fold,), trials in scores_lib.group(one.trials, "fold").items():
        final = next((row for row in one.rows if row["fold"] == fold), None)
        if final is None:  # The fold was interrupted after its trials.
            continue
        values = [percent(row["measures"]["identical_at_1"]) for row in trials]
        chosen = [f"{key} {value:g}" for key, value in final["hyper"].items()]
        found.append(Search(method, fold, ", ".join(values), ", ".join(chosen)))
    return found
