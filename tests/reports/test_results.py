"""Tables of the measured rows."""

import io

import pytest
import rich.console

from mixer_jax.reports import results


def row(model, stage, value, gallery="test", split="test", documents=10):
    return {
        "model": model,
        "stage": stage,
        "split": split,
        "gallery": gallery,
        "queries": 8,
        "documents": documents,
        "identical_at_1": value,
        "identical_at_5": 0.9,
        "relevance_at_1": None,
        "map": value,
        "mrr": value,
        "seconds": 1.0,
    }


ROWS = [
    row("mixer", "stage1", 0.5),
    row("mixer", "stage3", 0.7001),
    row("linear map", "", 0.7004),
    row("mixer", "stage3", 0.2, "test+distractors"),
    row("mixer", "stage3", 0.6, split="test/forward", documents=4),
    row("mixer", "stage3", 0.8, split="test/reverse", documents=6),
]


def test_baselines_come_first_and_best_is_bold():
    found = results.make_results(ROWS, "test")
    assert [(x.model, x.stage) for x in found.lines] == [
        ("linear map", ""),
        ("mixer", "stage1"),
        ("mixer", "stage3"),
    ]
    assert [line.ours for line in found.lines] == [False, True, True]
    # A measure missing from all rows has no column.
    assert found.measures == ("Identical@1", "Identical@5", "MAP", "MRR")
    first = [line.cells[0] for line in found.lines]
    # The two best are equal as displayed.
    assert first == [("70.0", True), ("50.0", False), ("70.0", True)]
    beyond = [line.cells[4].text for line in found.lines]
    assert beyond == [results.percent(None)] * 2 + ["20.0"]


def test_size_covers_the_galleries_of_all_parts():
    assert results.size(ROWS, "test", "test").endswith("4 to 6 documents")
    assert results.size(ROWS[:3], "test", "test") == "8 queries, 10 documents"


def test_lead_compares_ours_with_the_best_baseline():
    first, second = results.lead(ROWS, "test")
    assert (first["value"], first["other"]) == ("70.0", "linear map")
    assert (second["value"], second["other"]) == ("20.0", None)
    assert results.lead([], "test") == []


def test_bars_are_in_percent():
    bars = results.make_bars(ROWS, "test")
    assert [bar.name for bar in bars][1:] == ["mixer, stage1", "mixer, stage3"]
    assert bars[-1].values == pytest.approx((70.01, 20.0))
    assert bars[0].values == (pytest.approx(70.04), None)


def test_console_table_shows_every_figure():
    file = io.StringIO()
    console = rich.console.Console(file=file, width=80)
    console.print(*results.console_tables(ROWS))
    text = file.getvalue()
    for figure in ("linear map", "mixer, stage3", "70.0", "20.0"):
        assert figure in text
    assert "…" not in text


@pytest.mark.parametrize("name", ["[v2]", "[/v3]", ":smile:", "z" * 70])
def test_console_table_shows_names_unchanged(name):
    file = io.StringIO()
    rows = [row | {"model": name} for row in ROWS[:1]]
    tables = results.console_tables(rows)
    rich.console.Console(file=file, width=80).print(*tables)
    text = file.getvalue()
    assert name in text or text.count("z") == 70  # long names are folded
    assert "…" not in text
