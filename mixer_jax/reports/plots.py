"""Small line plots and histograms as inline SVG that follows the page's theme.

Matplotlib draws with placeholder colors that are replaced by CSS variables, so
that one drawing works on light and dark pages. Text remains text.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle

import markupsafe
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mixer_jax.runtime.text import printable

# Placeholder color -> CSS variable of page.css.
_INK = {"#010101": "--ink-soft", "#020202": "--line"}
_SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305")
_COLORS = _INK | {
    color: f"--series-{number + 1}" for number, color in enumerate(_SERIES)
}
_STYLE = {
    "svg.fonttype": "none",  # keeps text as text
    "svg.hashsalt": "mixer",  # makes the output deterministic
    "text.parse_math": False,  # "$" is a literal dollar sign
    "font.size": 8.5,
    "axes.edgecolor": "#020202",
    "axes.labelcolor": "#010101",
    "xtick.color": "#020202",
    "ytick.color": "#020202",
    "xtick.labelcolor": "#010101",
    "ytick.labelcolor": "#010101",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#020202",
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
}
_DASHED = {"color": "#010101", "linewidth": 0.8, "dashes": (3, 3)}
POINTS = 400  # maximum number of points in a plot


@matplotlib.rc_context(_STYLE)
def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    limit: float | None = None,
    colors: Mapping[str, int] | None = None,
    width: float = 3.7,
) -> markupsafe.Markup:
    """Plots lines over training steps.

    Args:
      series: `{name: (steps, values)}`; non-finite values are gaps.
      title: the label of the drawing for screen readers.
      limit: the threshold of a monitor, drawn as a dashed horizontal line.
      colors: `{name: index in the palette}`; None for the order of the series.
      width: the width in inches at which text has its nominal size.

    Returns:
      An `<svg>` element.
    """
    figure, axes = _panel(width)
    for order, (name, (steps, values)) in enumerate(series.items()):
        number = (colors or {}).get(name, order)
        steps, values = _thin(np.asarray(steps), np.asarray(values, float))
        color = _SERIES[number % len(_SERIES)]
        axes.plot(steps, values, color=color, linewidth=1.5)
        if len(steps) == 1:
            axes.plot(steps, values, "o", color=color, markersize=4)
    if limit is not None:
        axes.axhline(limit, **_DASHED)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_xlabel("step")
    return _svg(figure, title)


@matplotlib.rc_context(_STYLE)
def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    labels: tuple[str, str],
    level: float | None = None,
    place: float | None = None,
    dots: bool = True,
) -> markupsafe.Markup:
    """Plots one quantity against another as lines.

    Args:
      series: `{name: (x, y)}`; non-finite values are gaps.
      title: the label of the drawing for screen readers.
      labels: the labels of the horizontal and the vertical axis.
      level: a reference value, drawn as a dashed horizontal line.
      place: the current setting, drawn as a dashed vertical line.
      dots: whether to mark each point.

    Returns:
      An `<svg>` element.
    """
    figure, axes = _panel(4.6)
    style = {"marker": "o", "markersize": 3.5} if dots else {}
    for (x, y), color in zip(series.values(), cycle(_SERIES)):
        axes.plot(x, y, color=color, linewidth=1.5, **style)
    if level is not None:
        axes.axhline(level, **_DASHED)
    if place is not None:
        axes.axvline(place, **_DASHED)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    return _svg(figure, title)


@matplotlib.rc_context(_STYLE)
def histogram(
    sizes: Mapping[int | str, int], title: str, label: str
) -> markupsafe.Markup:
    """Draws a bar for the count of each size.

    Args:
      sizes: `{size or range of sizes: count}`.
      title: the label of the drawing for screen readers.
      label: the label of the horizontal axis.

    Returns:
      An `<svg>` element.
    """
    figure, axes = _panel(4.6)
    names = [str(size) for size in sizes]
    axes.bar(names, list(sizes.values()), color=_SERIES[0], width=0.8)
    step = -(-len(names) // 12)
    axes.set_xticks(range(0, len(names), step), names[::step])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_xlabel(label)
    return _svg(figure, title)


@matplotlib.rc_context(_STYLE | {"axes.grid.axis": "x"})
def intervals(
    values: Mapping[str, tuple[float, float, float]],
    title: str,
    label: str,
    level: float | None = None,
) -> markupsafe.Markup:
    """Draws a dot and an interval in a row of its own for each name.

    Args:
      values: `{name: (value, low, high)}`, from top to bottom.
      title: the label of the drawing for screen readers.
      label: the label of the horizontal axis.
      level: a reference value, drawn as a dashed vertical line.

    Returns:
      An `<svg>` element.
    """
    figure, axes = _panel(5.4, 0.8 + 0.25 * len(values))
    for row, (value, low, high) in enumerate(values.values()):
        # An interval that excludes the level has the first color.
        apart = level is None or low > level or high < level
        color = _SERIES[0] if apart else _SERIES[-1]
        axes.plot([low, high], [row, row], color=color, linewidth=1.5)
        axes.plot([value], [row], "o", color=color, markersize=4.5)
    if level is not None:
        axes.axvline(level, **_DASHED)
    axes.set_yticks(range(len(values)), [printable(name) for name in values])
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlabel(label)
    return _svg(figure, title)


def _panel(width: float, height: float = 2.2) -> tuple[Figure, Axes]:
    # Do not use pyplot, which would keep every figure in memory.
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Averages neighboring points if there are more than `POINTS`."""
    width = -(-len(steps) // POINTS)
    if width <= 1:
        return steps, values
    starts = np.arange(0, len(steps), width)
    counts = np.diff(np.append(starts, len(steps)))
    return (
        np.add.reduceat(steps, starts) / counts,
        np.add.reduceat(values, starts) / counts,
    )


def _short(value: float, _: int) -> str:
    if value and abs(value) < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def _svg(figure: Figure, title: str) -> markupsafe.Markup:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text is not converted to paths, and browsers have fallback fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A style element would apply to the whole page.
    for name in ("metadata", "style"):
        text = re.sub(rf"<{name}.*?</{name}>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", text)
    head, body = text.split(">", 1)
    text = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + body
    text = re.sub(r"<[^>]*>", lambda tag: _themed(tag[0]), text)
    label = markupsafe.escape(printable(title))
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return markupsafe.Markup(text)


def _themed(tag: str) -> str:
    """Replaces the font and colors in a tag with those of the page."""
    tag = re.sub(r" font-family: [^;]*;", "", tag)
    for color, variable in _COLORS.items():
        tag = tag.replace(color, f"var({variable})")
    return tag
