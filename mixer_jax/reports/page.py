"""The self-contained HTML page of a run's report."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
import numpy as np

from mixer_jax.reports import plots, results, templates
from mixer_jax.reports.sheets import Sheet
from mixer_jax.retrieval import metrics
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock
from mixer_jax.training.watch import logs

# Monitored figures in metrics.jsonl: (caption, config key of the threshold).
MONITORS = {
    "proxy_cosine": ("Mean cosine between proxies", "max_proxy_cosine"),
    "effective_rank": (
        "Effective rank of the proxies, as a share of the maximum",
        "min_effective_rank",
    ),
    "norm_ratio": (
        "Largest proxy norm, relative to the median",
        "max_norm_ratio",
    ),
    "concept_variance": (
        "Variance of concept vectors",
        "min_concept_variance",
    ),
    "slot_entropy": (
        "Entropy of slot usage, as a share of log(S)",
        "min_slot_entropy",
    ),
    "active_recall": (
        "Share of the ten hardest negatives that were active",
        "min_active_recall",
    ),
}
# Figures that compare ways to find categories: (heading, explanation).
WAY = {
    "bcubed_f1": (
        "B-cubed F1",
        "Harmonic mean of B-cubed precision and recall.",
    ),
    "bcubed_precision": (
        "B-cubed precision",
        "Mean over samples of the share of samples with the same ID that are "
        "of the same true category.",
    ),
    "bcubed_recall": (
        "B-cubed recall",
        "Mean over samples of the share of samples of the same true category "
        "that have the same ID.",
    ),
    "purity": (
        "Purity",
        "Share of samples in the most frequent true category of their ID.",
    ),
    "nmi": ("NMI", "Normalized mutual information."),
    "noise_share": ("Noise", "Share of samples without an ID."),
    "both_roles": (
        "Both roles",
        "Share of IDs that have a query and a document.",
    ),
    "categories": ("IDs", "Number of categories found."),
    "largest": ("Largest", "Samples in the largest category."),
    "gini": (
        "Gini",
        "Skew of the sizes: 0 if all are equal, near 1 if a few dominate.",
    ),
}
# Figures where higher is better, and figures that are not shares.
_RATED = ("bcubed_f1", "bcubed_precision", "bcubed_recall", "purity", "nmi")
_COUNTS = ("categories", "largest", "gini")


def read_rows(run: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.json`; [] if the run has no such file.

    Raises:
      UserError: if the file is damaged or has other contents.
    """
    path = paths.make(run) / "metrics.json"
    rows = read_json(path, list) or []
    if not all(map(metrics.is_row, rows)):
        raise UserError(f"{path} does not have the expected contents.")
    return rows


def read_ways(run: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Returns `{method: metrics}` of the categories found, ours first.

    The result is empty if the run has no `categories.json` with quality
    figures; the file of that name in an export is a list of category IDs.
    """
    path = paths.make(run) / "categories.json"
    figures = read_json(path, dict | list)
    if not isinstance(figures, dict):
        return {}
    return {
        name: way
        for name, way in figures.get("ways", figures).items()
        if isinstance(way, dict) and WAY.keys() & way.keys()
    }


def read_log(workdir: str | os.PathLike) -> dict[str, list]:
    """Returns `{figure: (steps, values)}` of a stage's `metrics.jsonl`.

    An incomplete last line is left out.
    """
    path = paths.make(workdir) / "metrics.jsonl"
    series: dict[str, tuple[list, list]] = {}
    if not path.exists():
        return {}
    for _, figures in logs.read_lines(path):
        for name, value in figures.items():
            if name != "step" and isinstance(value, int | float | None):
                steps, values = series.setdefault(name, ([], []))
                steps.append(figures["step"])
                values.append(np.nan if value is None else value)
    return series


def render(
    title: str,
    rows: Sequence[Mapping[str, Any]] = (),
    logs: Mapping[str, Mapping[str, tuple]] | None = None,
    limits: Mapping[str, float] | None = None,
    ways: Mapping[str, Mapping[str, Any]] | None = None,
    sheets: Sequence[Sheet] = (),
    sheets_model: str = "",
    sheets_missing: str = "There are no examples.",
    category_samples: Sequence[tuple[str, int, list[str]]] = (),
    split: str = "test",
    attribution: str = "",
    simulated: bool = False,
) -> str:
    """Renders the page, with a note in place of each missing section.

    Args:
      title: the title of the page.
      rows: the rows of `metrics.json`.
      logs: `{stage: series}`, see `read_log`.
      limits: the `monitors` section of the config.
      ways: see `read_ways`.
      sheets: see `sheets.make_sheets`.
      sheets_model: the name of the model whose rankings the sheets show.
      sheets_missing: the note to show if there are no sheets.
      category_samples: see `sheets.category_samples`.
      split: the split of the headline figures.
      attribution: the sources and licenses of the pictures.
      simulated: whether to note that the click log is a simulation.

    Returns:
      Self-contained HTML.
    """
    logs, limits, ways = logs or {}, limits or {}, ways or {}
    parts = sorted({row["split"] for row in rows} - {split})
    quality = ways_table(ways)
    first = next(iter(ways.values()), {})
    sizes = {int(k): v for k, v in first.get("sizes", {}).items()}
    return templates.render(
        "page.html",
        title=title,
        tiles=results.lead(rows, split),
        results=results.make_results(rows, split) if rows else None,
        bars=results.make_bars(rows, split),
        part_results=[results.make_results(rows, part) for part in parts],
        measures=results.DEFINITIONS,
        baselines_missing=all(r["model"] == results.OURS for r in rows),
        sheets=sheets,
        sheets_model=sheets_model,
        sheets_missing=sheets_missing,
        stages=list(logs),
        curves=_curves(logs),
        monitors=_monitor_panels(logs, limits),
        ways=quality,
        sizes=sizes
        and plots.histogram(
            sizes, "Number of categories by size", "samples per category"
        ),
        category_samples=category_samples,
        simulated=simulated,
        attribution=plain(attribution),
    )


def check_out(path: paths.Path) -> None:
    """Checks that a page can be written to a path.

    Raises:
      UserError: if it cannot be written, or would replace another kind of file.
    """
    paths.check_file(path, "The report")
    with paths.reaching(path):
        start = path.read_bytes()[:9] if path.exists() else b""
    if start and start.lower() != b"<!doctype":
        raise UserError(
            f"{path} is not a report; choose another path with --out."
        )


def write(
    path: str | os.PathLike, render_page: Callable[[], str]
) -> paths.Path:
    """Renders a page, writes it atomically and returns its path.

    Raises:
      UserError: if it cannot be written, or would replace another kind of file;
        raised before rendering.
    """
    path = paths.make(path)
    check_out(path)
    with folder_lock.hold_file(path, "--out") as owner:
        html = render_page()
        owner.check()
        paths.deliver(path, html, "The report")
    return path


def plain(text: str) -> list[str]:
    """Returns paragraphs and list items of a Markdown note, without markup."""
    text = re.sub(r"\n(?![-*\n])\s*", " ", text.replace("`", "").strip())
    lines = (line.strip(" -*") for line in text.splitlines())
    return [line for line in lines if line]


def read_json(path: paths.Path, kind: type) -> Any:
    """Returns the contents of a JSON file; None if there is no such file.

    Raises:
      UserError: if the file is damaged or its contents are not of type `kind`.
    """
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged and cannot be read.") from error
    if not isinstance(data, kind):
        raise UserError(f"{path} does not have the expected contents.")
    return data


def is_simulation(note: paths.Path) -> bool:
    """Returns whether a `simulation.json` marks the clicks as simulated."""
    return bool((read_json(note, dict) or {}).get("simulation"))


def read_note(path: paths.Path) -> str:
    """Returns a note's text, or ""; replaces bytes that are not UTF-8."""
    if not path.is_file():
        return ""
    return path.read_bytes().decode(errors="replace")


def _curves(logs: Mapping) -> list[tuple[str, str]]:
    """Returns captions and plots of each stage's loss and learning rates."""
    stages = list(logs)
    panels = [
        (f"Loss, {stage}", {stage: series["loss"]})
        for stage, series in logs.items()
        if "loss" in series
    ]
    rates = {
        s: f["learning_rate"] for s, f in logs.items() if "learning_rate" in f
    }
    if rates:
        panels.append(("Learning rate", rates))
    return [
        (caption, _draw(caption, s, stages, width=2.9)) for caption, s in panels
    ]


def _monitor_panels(logs: Mapping, limits: Mapping) -> list[tuple[str, str]]:
    stages, panels = list(logs), []
    for name, (caption, threshold) in MONITORS.items():
        series = {s: f[name] for s, f in logs.items() if name in f}
        if any(np.isfinite(values).any() for _, values in series.values()):
            limit = limits.get(threshold)
            panels.append((caption, _draw(caption, series, stages, limit)))
    return panels


def _draw(
    caption: str,
    series: Mapping,
    stages: list,
    limit: float | None = None,
    width: float = 3.7,
) -> markupsafe.Markup:
    colors = {stage: number for number, stage in enumerate(stages)}
    return plots.lines(series, caption, limit, colors, width)


class Ways(NamedTuple):
    """Table that compares ways to find categories."""

    headings: list[str]
    measures: list[tuple[str, str]]  # heading and explanation
    lines: list[dict[str, Any]]  # name and cells of each way


def ways_table(ways: Mapping[str, Mapping[str, Any]]) -> Ways | None:
    """Returns the table for the result of `read_ways`; None if it is empty."""
    if not ways:
        return None
    keys = [
        k for k in WAY if any(way.get(k) is not None for way in ways.values())
    ]

    def text(key: str, value: float | None) -> str:
        if key not in _COUNTS or value is None:
            return results.percent(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"

    # A way without categories is only a reference and cannot be the best.
    found = [way for way in ways.values() if way.get("categories") != 0]
    best = [
        text(key, max((way.get(key) or 0.0 for way in found), default=0.0))
        if key in _RATED
        else None
        for key in keys
    ]
    lines = []
    for name, way in ways.items():
        cells = results.make_cells(
            [text(key, way.get(key)) for key in keys], best
        )
        lines.append({"name": name.replace("_", " "), "cells": cells})
    measures = [WAY[key] for key in keys]
    return Ways([heading for heading, _ in measures], measures, lines)
