"""HTML report on the quality of the categories that categorize found."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mixer_jax.categories import outcome
from mixer_jax.categories.outcome import Outcome
from mixer_jax.categories.quality import against_truth, agreement, silhouette
from mixer_jax.data.images import faults
from mixer_jax.data.tables import table
from mixer_jax.experiments import granularity
from mixer_jax.reports import page, plots, templates, worst
from mixer_jax.reports.results import percent
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError

_RARE = 0.1  # fraction of items counted as rarely shown


def build(
    folder: str | os.PathLike,
    log: str | os.PathLike = "",
    truth: str | os.PathLike = "",
    path: str | os.PathLike = "",
) -> paths.Path:
    """Writes the report on the categories found.

    Sections that cannot be computed are replaced by a note on the page.

    Args:
      folder: the output folder of categorize.
      log: the click log read by categorize; "" to look for it in `folder`.
      truth: the table of true categories given to categorize; "" for none.
      path: the path of the page; "" for `folder/report/index.html`.

    Returns:
      The path of the page.

    Raises:
      UserError: if there are no categories, or they do not match the log or
        the truth.
    """
    folder = paths.local(folder, "The output of categorize")
    if not folder.is_dir():
        raise UserError(
            f"Cannot read categories from {folder}: no such folder."
        )
    return page.write(
        path or folder / "report" / "index.html",
        lambda: _render(folder, log, truth),
    )


def _render(
    folder: pathlib.Path, log: str | os.PathLike, truth: str | os.PathLike
) -> str:
    """Returns the page; see `build`."""
    log = log or outcome.find_log(folder)
    known = table.read_table(truth) if truth else None
    found = outcome.read(folder, log, known)
    with _explaining_moves(log):
        measured = measure(found)
    return templates.render(
        "categories.html",
        title=paths.absolute(folder).name,
        **measured,
        ways=page.ways_table(page.read_ways(folder)),
        sweep=draw_sweep(page.read_json(folder / "sweep.json", dict)),
        simulated=page.is_simulation(pathlib.Path(log, "simulation.json")),
        attribution=page.plain(_attribution(folder, found)),
    )


@contextlib.contextmanager
def _explaining_moves(log: str | os.PathLike) -> Iterator[None]:
    """Adds advice on moved logs and images to errors about missing images."""
    try:
        yield
    except faults.UnreadableImageError as error:
        if error.kind != faults.MISSING:
            raise
        raise UserError(
            f"{error} The click log {log} refers to it by a path relative to "
            "its tables. If only the log or only the images were moved, move "
            "the other one too, and pass the log with --log=FOLDER."
        ) from error


def measure(found: Outcome) -> dict[str, Any]:
    """Returns the values of the template, with figures formatted as text."""
    counted = found.labels != outcome.HELD_OUT
    is_query = (found.samples["role"] == table.QUERY).to_numpy()
    shape = against_truth.shape(found.labels[counted], is_query[counted])
    silhouettes = None
    if found.features is not None:
        silhouettes = silhouette.silhouettes(found.features, found.labels)
    return {
        "samples": f"{counted.sum():,}",
        "held_out": f"{(~counted).sum():,}" if not counted.all() else "",
        "categories": f"{shape['categories']:,}",
        "noise": percent(shape["noise_share"]),
        "both_roles": percent(shape["both_roles"]),
        "largest": f"{shape['largest']:,}",
        "sizes": plots.histogram(
            binned({int(k): v for k, v in shape["sizes"].items()}),
            "Number of categories by size",
            "samples per category",
        ),
        "silhouette": silhouettes
        and {
            "mean": _signed(silhouettes.mean),
            "samples": f"{silhouettes.samples:,}",
            "categories": f"{len(silhouettes.categories):,}",
            "drawn": len(silhouettes.categories) < shape["categories"],
        },
        "clicks": _agreements(found),
        "exposure": _exposure(found),
        **_worst(found, silhouettes),
    }


def binned(sizes: Mapping[int, int], limit: int = 12) -> dict[int | str, int]:
    """Bins the sizes if their histogram would have too many bars.

    Args:
      sizes: `{size: count}`, sizes of 1 or more.
      limit: the maximum number of sizes to leave unbinned.

    Returns:
      `{size or "from-to": count}`; ranges end at powers of two.
    """
    if len(sizes) <= limit:
        return dict(sorted(sizes.items()))
    bins: dict[int | str, int] = {}
    for size, count in sorted(sizes.items()):
        last = 1 << (size - 1).bit_length()
        name = size if size <= 4 else f"{last // 2 + 1}-{last}"
        bins[name] = bins.get(name, 0) + count
    return bins


def draw_sweep(sweep: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Plots the result of `granularity.measure`; None if it has no points."""
    if not sweep or not sweep.get("points"):
        return None
    points, used = sweep["points"], sweep["used"]
    ks = sorted({point["neighbors"] for point in points})
    panels = []
    for key, label, level in (
        ("identical_at_1", "Identical@1, percent", sweep["true_categories"]),
        ("bcubed_f1", "B-cubed F1, percent", None),
    ):
        if all(point.get(key) is None for point in points):
            continue
        series = {}
        for k in ks:
            line = sorted(
                (1 - p["threshold"], 100 * _number(p.get(key)))
                for p in points
                if p["neighbors"] == k
            )
            series[f"k = {k}"] = tuple(zip(*line, strict=True))
        svg = plots.curves(
            series,
            f"{label}, by eps and k",
            ("DBSCAN eps (larger is coarser)", label),
            None if level is None else 100 * level,
            1 - used["threshold"],
        )
        panels.append((label, svg))
    measured = [p for p in points if p["identical_at_1"] is not None]
    best = max(measured, key=lambda p: p["identical_at_1"], default=None)
    return {
        "names": [f"k = {k}" for k in ks],
        "panels": panels,
        "best": best and _setting(best),
        "chance": best and _chance(best["identical_at_1"], sweep["queries"]),
        "used": _setting(used),
        "true_categories": sweep["true_categories"]
        and percent(sweep["true_categories"]),
        "by_truth": sweep["exam"] == granularity.TRUTH,
        "queries": f"{sweep['queries']:,}",
        "searched": f"{sweep['items']:,}",
    }


def _agreements(found: Outcome) -> list[dict[str, Any]]:
    """Returns one bar for the log's clicks, and up to two for later clicks."""
    logs = [("clicks in the log", found.log.clicks)]
    if found.later is not None:
        new = agreement.new_pairs(found.later, found.log.clicks)
        logs.append(("later clicks", found.later))
        logs.append(("later clicks on new pairs", new))
    bars = []
    for name, clicks in logs:
        figures = agreement.agreement(
            clicks, found.query_labels, found.item_labels
        )
        if figures["clicks"]:
            shares = ("together", "chance", "known")
            bars.append(
                {"name": name, "clicks": f"{figures['clicks']:,}"}
                | {share: 100 * figures[share] for share in shares}
            )
    return bars


def _exposure(found: Outcome) -> dict[str, Any] | None:
    """Returns the skew of exposure, over items and over categories."""
    items, grouped = agreement.exposures(found.log.clicks, found.item_labels)
    if not items.sum():
        return None
    x = np.linspace(0, 100, 101)
    curves = {
        "items": (x, 100 * agreement.lorenz(items)),
        "categories": (x, 100 * agreement.lorenz(grouped)),
        "equal exposure": (x, x),
    }
    labels = found.item_labels[found.item_labels != outcome.HELD_OUT]
    rare = items <= np.quantile(items, _RARE)
    return {
        "names": list(curves),
        "svg": plots.curves(
            curves,
            "Cumulative share of exposures, least shown first",
            ("least shown, percent", "exposures, percent"),
            dots=False,
        ),
        "gini_items": f"{against_truth.gini(items):.2f}",
        "gini_categories": f"{against_truth.gini(grouped):.2f}",
        "never": f"{(items == 0).sum():,}",
        "rare": f"{rare.sum():,}",
        "rare_max": f"{int(items[rare].max()):,}",
        "rare_kept": percent((labels[rare] >= 0).mean()),
    }


def _worst(
    found: Outcome, silhouettes: silhouette.Silhouettes | None
) -> dict[str, Any]:
    """Returns sheets of the worst categories, and their ranking criterion."""
    labels, count = found.labels, len(found.names)
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    inside, every = agreement.of_categories(
        found.log.clicks, found.query_labels, found.item_labels, count
    )
    with np.errstate(invalid="ignore"):
        clicked = pd.Series(inside / every)
    purity, by, score = None, "clicks", clicked
    if "truth" in found.samples:
        purity = worst.purity(labels, found.samples["truth"].to_numpy())
        by, score = "purity", purity.share[purity.share < 1]
    elif silhouettes is not None:
        by = "silhouette"
        score = pd.Series(silhouettes.of_category, silhouettes.categories)

    def sheet(label: int) -> worst.Sheet:
        details = [f"{sizes[label]} samples"]
        if by == "purity":
            details.append(f"purity {percent(score[label])}%")
        if by == "silhouette":
            details.append(f"silhouette {_signed(score[label])}")
        if every[label]:
            details.append(f"{percent(clicked[label])}% of clicks inside it")
        leading = None if purity is None else purity.leading[label]
        name = found.names[label]
        return worst.make(
            label, name, tuple(details), found.samples, labels, leading
        )

    return {
        "worst": [sheet(label) for label in worst.choose(score, sizes)],
        "worst_by": by,
        "worst_of": f"{len(score):,}",
    }


def _setting(point: Mapping[str, Any]) -> dict[str, str]:
    return {
        "eps": f"{1 - point['threshold']:.2f}",
        "k": str(point["neighbors"]),
        "value": percent(point["identical_at_1"]),
    }


def _chance(share: float, count: int) -> str:
    """Returns twice the standard error of a share, in percentage points."""
    return f"{200 * np.sqrt(share * (1 - share) / count):.1f}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _attribution(folder: pathlib.Path, found: Outcome) -> str:
    """Returns the ATTRIBUTION.md from a parent folder of the images, or ""."""
    folder = pathlib.Path(os.path.abspath(folder))
    image = next(filter(None, found.samples["image"]), "")
    for above in pathlib.Path(image).parents:
        note = above / "ATTRIBUTION.md"
        if note.is_file():
            return page.read_note(note)
        if above == folder:
            break
    return ""
