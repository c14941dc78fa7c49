"""Output to the terminal, in which user text is shown as it is.

Rich would read `[v2]` as markup, `:smile:` as an emoji and numbers as something
to colour, would cut long paths, and would let escape codes through. Everything
that prints takes consoles, tables and progress bars from here.
"""

import contextlib
import sys
from typing import Any

import rich.box
import rich.console
import rich.progress
import rich.table
from rich.console import RenderableType
from rich.text import Text

from mixer_jax.runtime.text import printable

SIMPLE = rich.box.SIMPLE
SIMPLE_HEAD = rich.box.SIMPLE_HEAD


class Console(rich.console.Console):
    """A console that prints strings as they are, and never cuts a line."""

    def __init__(self, **options: Any):
        """Takes the options of `rich.console.Console`."""
        _accept_all(sys.stderr if options.get("stderr") else sys.stdout)
        plain = {"markup": False, "highlight": False, "emoji": False}
        super().__init__(**plain | {"soft_wrap": True} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns the text to show for a string."""
        return super().render_str(printable(text), **options)

    @property
    def encoding(self) -> str:
        """The encoding of the file that is written to."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


def say(
    *lines: Any, console: rich.console.Console | None = None, style: str = ""
) -> None:
    """Prints lines as they are.

    Args:
      *lines: what to print; objects as `str` shows them.
      console: where, of any kind; default standard output.
      style: of all lines, as "yellow".
    """
    console = console or Console()
    for line in lines:
        console.print(plain(line), style=style, soft_wrap=True)


def plain(value: Any, style: str = "") -> Text:
    """Returns what `str` shows of a value, for any console, unchanged."""
    return Text(printable(str(value)), style)


class Table(rich.table.Table):
    """A table whose title, headings and cells are plain if they are strings."""

    def __init__(
        self, *headings: str, title: str | None = None, **options: Any
    ):
        """Takes what `rich.table.Table` takes."""
        shown = None if title is None else plain(title, "table.title")
        super().__init__(*headings, title=shown, **options)

    def add_column(self, header: RenderableType = "", **options: Any) -> None:
        """Adds a column; the options are those of Rich."""
        super().add_column(_shown(header), **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Adds a row; the options are those of Rich."""
        super().add_row(*map(_shown, cells), **options)


class Field(rich.progress.ProgressColumn):
    """A column of a progress bar: a field of its task, or the description."""

    def __init__(self, name: str = ""):
        """Takes the field's name; "" is the description."""
        super().__init__()
        self._name = name

    def render(self, task: rich.progress.Task) -> Text:
        """Returns what the bar shows."""
        said = task.fields[self._name] if self._name else task.description
        return plain(said)


class Progress(rich.progress.Progress):
    """Progress bars whose descriptions are plain."""

    @classmethod
    def get_default_columns(cls) -> tuple[rich.progress.ProgressColumn, ...]:
        """Returns Rich's columns, with a plain description."""
        return (Field(), *super().get_default_columns()[1:])


def count_bar(console: rich.console.Console) -> Progress:
    """Returns a bar of steps, whose tasks have a field `said`."""
    return Progress(
        Field(),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        Field("said"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


def _shown(cell: RenderableType | None) -> RenderableType | None:
    return plain(cell) if isinstance(cell, str) else cell


def _accept_all(stream: Any) -> None:
    """Makes a stream escape what its encoding lacks, as stderr does."""
    if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")
