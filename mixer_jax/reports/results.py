"""Tables and bars built from the rows of metrics.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mixer_jax.retrieval.metrics import DEFINITIONS
from mixer_jax.retrieval.runs import OURS
from mixer_jax.runtime import terminal

GALLERIES = {
    "test": "Test gallery",
    "test+distractors": "With distractors",
}


class Cell(NamedTuple):
    """One figure in a table, and whether it is the best in its column."""

    text: str
    best: bool


class Line(NamedTuple):
    """One model's figures, in the order of the columns."""

    model: str
    stage: str
    ours: bool
    cells: tuple[Cell, ...]


class Results(NamedTuple):
    """One split's table, with a column for each gallery and metric."""

    split: str
    galleries: tuple[tuple[str, str, str], ...]  # key, title, size
    measures: tuple[str, ...]  # headings, the same for each gallery
    lines: tuple[Line, ...]


class Bar(NamedTuple):
    """One model's Identical@1 in each gallery, in percent."""

    name: str
    ours: bool
    values: tuple[float | None, ...]


def percent(value: float | None) -> str:
    """Returns a share in percent with one decimal; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"  # noqa: RUF001


def name(model: str, stage: str) -> str:
    """Returns the name under which the page shows a model."""
    return f"{model}, {stage}" if model == OURS and stage else model


def size(rows: Sequence[dict[str, Any]], split: str, gallery: str) -> str:
    """Describes the number of queries and documents of a gallery.

    Each part of a split is ranked separately, in its own gallery.
    """
    rows = [row for row in rows if row["gallery"] == gallery]
    whole = [row for row in rows if row["split"] == split][-1]
    parts = {
        row["split"]: row["documents"]
        for row in rows
        if row["split"].startswith(f"{split}/")
    }
    low, high = min(parts.values(), default=0), max(parts.values(), default=0)
    queries = f"{whole['queries']:,} queries"
    if not parts:
        return f"{queries}, {whole['documents']:,} documents"
    count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{queries}, each ranking {count} documents"


def make_results(rows: Sequence[dict[str, Any]], split: str) -> Results:
    """Returns the table of one split's rows, baselines first."""
    models = _by_model(rows, split)
    galleries = _galleries(models)
    measures = [
        (key, title)
        for key, title, _ in DEFINITIONS
        if any(
            row.get(key) is not None
            for found in models.values()
            for row in found.values()
        )
    ]
    shares = {
        model: [
            found.get(gallery, {}).get(key)
            for gallery in galleries
            for key, _ in measures
        ]
        for model, found in models.items()
    }
    columns = zip(*shares.values(), strict=True)
    known = [[s for s in column if s is not None] for column in columns]
    best = [percent(max(column)) if column else None for column in known]
    return Results(
        split,
        tuple((g, GALLERIES[g], size(rows, split, g)) for g in galleries),
        tuple(title for _, title in measures),
        tuple(
            Line(
                model,
                stage,
                model == OURS,
                make_cells(map(percent, line), best),
            )
            for (model, stage), line in shares.items()
        ),
    )


def make_cells(
    texts: Iterable[str], best: Iterable[str | None]
) -> tuple[Cell, ...]:
    """Returns a line's cells, given each column's best text, if any.

    Figures displayed identically count as ties.
    """
    return tuple(
        Cell(text, text == top) for text, top in zip(texts, best, strict=True)
    )


def _by_model(
    rows: Sequence[dict[str, Any]], split: str
) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Returns (model, stage) -> gallery -> row, baselines first."""
    models: dict[tuple[str, str], dict] = {}
    for row in sorted(rows, key=lambda row: row["model"] == OURS):
        if row["split"] == split:
            found = models.setdefault((row["model"], row["stage"]), {})
            found[row["gallery"]] = row
    return models


def _galleries(models: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    """Returns the galleries in the result of `_by_model`."""
    return [
        g for g in GALLERIES if any(g in found for found in models.values())
    ]


def make_bars(rows: Sequence[dict[str, Any]], split: str) -> list[Bar]:
    """Returns the bars of Identical@1, baselines first."""
    models = _by_model(rows, split)
    galleries = _galleries(models)
    bars = []
    for (model, stage), found in models.items():
        shares = [found.get(g, {}).get("identical_at_1") for g in galleries]
        values = tuple(None if s is None else 100 * s for s in shares)
        bars.append(Bar(name(model, stage), model == OURS, values))
    return bars


def lead(rows: Sequence[dict[str, Any]], split: str) -> list[dict[str, str]]:
    """Returns our headline figure and the best other model's, per gallery."""
    tiles = []
    for gallery in GALLERIES:
        here = [
            row
            for row in rows
            if row["split"] == split
            and row["gallery"] == gallery
            and row["identical_at_1"] is not None
        ]
        ours = [row for row in here if row["model"] == OURS]
        others = [row for row in here if row["model"] != OURS]
        if not ours:
            continue
        other = max(others, key=lambda r: r["identical_at_1"], default=None)
        tiles.append(
            {
                "value": percent(ours[-1]["identical_at_1"]),
                "title": GALLERIES[gallery],
                "size": size(rows, split, gallery),
                "other": other and name(other["model"], other["stage"]),
                "other_value": other and percent(other["identical_at_1"]),
            }
        )
    return tiles


def console_tables(rows: Sequence[dict[str, Any]]) -> list[terminal.Table]:
    """Returns tables of percentages, one per whole split and gallery."""
    tables = []
    for split in sorted(
        {row["split"] for row in rows if "/" not in row["split"]}
    ):
        found = make_results(rows, split)
        width = len(found.measures)
        for number, (_, title, counts) in enumerate(found.galleries):
            table = terminal.Table(
                title=f"{title}, in percent: {counts}",
                title_justify="left",
                box=terminal.SIMPLE_HEAD,
            )
            table.add_column("model", overflow="fold")
            for measure in found.measures:
                table.add_column(
                    measure.replace("@", "\n@"), justify="right", no_wrap=True
                )
            for line in found.lines:
                cells = line.cells[number * width : (number + 1) * width]
                table.add_row(
                    name(line.model, line.stage),
                    *(terminal.plain(c.text, "bold" * c.best) for c in cells),
                )
            tables.append(table)
    return tables
