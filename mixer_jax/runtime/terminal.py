"""Terminal output that shows user text unchanged.

Rich would parse `[v2]` as markup and `:smile:` as an emoji, color numbers, wrap
long paths, and pass escape codes through. All output uses the consoles, tables
and progress bars defined here.
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
    """A console that prints strings unchanged and never wraps lines."""

    def __init__(self, **options: Any):
        """Takes the options of `rich.console.Console`."""
        _accept_all(sys.stderr if options.get("stderr") else sys.stdout)
        plain = {"markup": False, "highlight": False, "emoji": False}
        super().__init__(**plain | {"soft_wrap": True} | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a string as text, with control characters escaped."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Leaves a `BrokenPipeError` to the command; Rich would exit with 1."""
        raise  # Rich calls this while it handles the error.

    @property
    def encoding(self) -> str:
        """The encoding of the output file."""
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


def say(
    *lines: Any, console: rich.console.Console | None = None, style: str = ""
) -> None:
    """Prints lines unchanged.

    Args:
      *lines: strings, or objects to convert with `str`.
      console: any console; default standard output.
      style: the style of all lines, as in "yellow".
    """
    console = console or Console()
    for line in lines:
        console.print(plain(line), style=style, soft_wrap=True)


def plain(value: Any, style: str = "") -> Text:
    """Returns `str(value)` as text that any console prints unchanged."""
    return Text(printable(str(value)), style)


class Table(rich.table.Table):
    """A table that shows strings in its title, headings and cells unchanged."""

    def __init__(
        self, *headings: str, title: str | None = None, **options: Any
    ):
        """Takes the arguments of `rich.table.Table`."""
        shown = None if title is None else plain(title, "table.title")
        super().__init__(*headings, title=shown, **options)

    def add_column(self, header: RenderableType = "", **options: Any) -> None:
        """Adds a column; the options are those of Rich."""
        super().add_column(_shown(header), **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Adds a row; the options are those of Rich."""
        super().add_row(*map(_shown, cells), **options)


class Field(rich.progress.ProgressColumn):
    """A progress bar column that shows a task's field or description."""

    def __init__(self, name: str = ""):
        """Takes the name of the task's field; "" shows the description."""
        super().__init__()
        self._name = name

    def render(self, task: rich.progress.Task) -> Text:
        """Returns the text of the column."""
        text = task.fields[self._name] if self._name else task.description
        return plain(text)


class Progress(rich.progress.Progress):
    """Progress bars that show their descriptions unchanged."""

    @classmethod
    def get_default_columns(cls) -> tuple[rich.progress.ProgressColumn, ...]:
        """Returns Rich's columns, with the description unchanged."""
        return (Field(), *super().get_default_columns()[1:])


def count_bar(console: rich.console.Console) -> Progress:
    """Returns a progress bar for steps; tasks have a field `message`."""
    return Progress(
        Field(),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        Field("message"),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


def _shown(cell: RenderableType | None) -> RenderableType | None:
    return plain(cell) if isinstance(cell, str) else cell


def _accept_all(stream: Any) -> None:
    """Makes a stream escape characters it cannot encode, as stderr does."""
    if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")
