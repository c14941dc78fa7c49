"""Plots are inline SVG in the page's colors."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import hypothesis
import numpy as np
from hypothesis import strategies as st

from mixer_jax.reports import plots


def check(svg):
    assert svg.startswith("<svg role=")
    assert svg.rstrip().endswith("</svg>")
    assert "http" not in svg
    assert "<style" not in svg
    assert "font-family" not in svg
    assert not re.findall(r"#0[0-9a-f]{5}\b", svg), "a placeholder is left"


def test_lines_with_and_without_limit():
    series = {"stage1": ([1, 2, 3], [3.0, np.nan, 1.0]), "stage2": ([4], [2.0])}
    svg = plots.lines(series, 'Loss "a" & b', limit=2.5)
    check(svg)
    assert "Loss &#34;a&#34; &amp; b" in svg
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert "stroke-dasharray" in svg
    assert "stroke-dasharray" not in plots.lines(series, "Loss")


def test_colors_are_assigned_by_name():
    svg = plots.lines({"b": ([1, 2], [1, 2])}, "Loss", colors={"b": 2})
    assert "var(--series-3)" in svg
    assert "var(--series-1)" not in svg


def test_many_points_are_averaged():
    count = 10 * plots.POINTS
    many = plots.lines({"a": (range(count), np.arange(count) % 7)}, "Loss")
    few = plots.lines({"a": (range(10), range(10))}, "Loss")
    check(many)
    assert len(many) < len(few) + 40 * plots.POINTS


def test_histogram():
    svg = plots.histogram({1: 5, 2: 3, 30: 1}, "Sizes", "samples")
    check(svg)
    assert ">30</text>" in svg
    assert ">samples</text>" in svg


def test_curves_with_and_without_reference_lines():
    series = {"k = 5": ([0.1, 0.2], [60.0, np.nan]), "k = 10": ([0.1], [50.0])}
    svg = plots.curves(series, "by eps", ("eps", "percent"), 70.0, 0.1)
    check(svg)
    assert ">eps</text>" in svg
    assert ">percent</text>" in svg
    assert svg.count("stroke-dasharray") == 2
    assert "var(--series-2)" in svg
    plain = plots.curves(series, "by eps", ("eps", "percent"), dots=False)
    assert "stroke-dasharray" not in plain
    assert plain.count("<use") < svg.count("<use")


def texts(svg):
    """Returns the label and the words of a drawing."""
    root = ElementTree.fromstring(svg.replace("xlink:", ""))
    return [
        root.get("aria-label"),
        *("".join(e.itertext()) for e in root.iter()),
    ]


@hypothesis.given(
    st.sampled_from(
        ["$", "$x^2$", "a_b", "_name", "x\\frac{", "#010101", "<b>"]
    )
    # Numbers may also be on an axis.
    | st.text(st.characters(exclude_categories=["N"]), max_size=20)
)
@hypothesis.settings(deadline=None, max_examples=8)
def test_names_are_drawn_unchanged(name):
    name = "".join(filter(str.isprintable, name)).strip() or "$1$"
    drawings = (
        plots.lines({name: ([1, 2], [1.0, 2.0])}, name),
        plots.histogram({name: 1, "other": 2}, name, name),
        plots.curves({name: ([1, 2], [1.0, 2.0])}, name, (name, name)),
    )
    for number, svg in enumerate(drawings):
        label, *words = texts(svg)
        assert label == name
        # A tick or axis label in all but the first plot.
        assert (name in map(str.strip, words)) == (number > 0)


def test_unwritable_home_causes_no_warning():
    unset = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    known = {k: v for k, v in os.environ.items() if k not in unset}
    done = subprocess.run(
        [sys.executable, "-c", "import mixer_jax.reports.plots"],
        env=known | {"HOME": "/proc/none"},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""


def test_intervals_are_drawn_in_order():
    svg = plots.intervals(
        {"above": (1.0, 0.5, 2.0), "either <side>": (0.1, -1.0, 1.2)},
        "Differences",
        "points",
        0.0,
    )
    assert svg.index("above") < svg.index("either &lt;side&gt;")
    # Two rows: the interval that includes the level has the gray color.
    assert "var(--series-1)" in svg
    assert "var(--series-5)" in svg
    taller = plots.intervals(
        {str(number): (1.0, 0.5, 2.0) for number in range(12)}, "", "points"
    )
    low, high = (
        float(re.search(r'viewBox="0 0 \S+ ([\d.]+)"', one)[1])
        for one in (svg, taller)
    )
    np.testing.assert_allclose(high - low, 10 * 0.25 * 72)  # points
    assert "var(--series-5)" not in taller
