"""Shows the progress of long passes over data on stderr, with rate and ETA.

A terminal shows a bar; other outputs get a line every `EVERY` seconds. Only
process 0 shows progress, and only for the outermost of nested passes.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import rich.console
import rich.progress
import rich.text

from mixer_jax.runtime import terminal

EVERY = 30.0  # seconds between lines

Count = Callable[[float], None]
T = TypeVar("T")

_shown = threading.Lock()  # held while progress is shown


@contextlib.contextmanager
def show(
    label: str,
    total: float | None = None,
    *,
    console: rich.console.Console | None = None,
) -> Iterator[Count]:
    """Shows the progress of a `with` block.

    Args:
      label: what is being done, as in "Embedding documents".
      total: the number of items; 1.0 to show a percentage, None if unknown.
      console: the console to print to; default stderr.

    Yields:
      A function to call with the number of newly completed items.
    """
    console = console or terminal.Console(stderr=True)
    if console.quiet or not _is_first() or not _shown.acquire(blocking=False):
        yield lambda count: None
        return
    try:
        with _bar_or_lines(label, total, console) as count:
            yield count
    finally:
        _shown.release()


def track(
    items: Iterable[T], label: str, total: int | None = None
) -> Iterator[T]:
    """Yields the items, and shows how many have been consumed.

    Args:
      items: any iterable.
      label: what is being done, as in "Embedding documents".
      total: the number of items; default `len(items)`.
    """
    with show(label, len(items) if total is None else total) as count:
        for item in items:
            yield item
            count(1)


@contextlib.contextmanager
def _bar_or_lines(
    label: str, total: float | None, console: rich.console.Console
) -> Iterator[Count]:
    if console.is_terminal:
        with terminal.Progress(
            terminal.Field(),
            rich.progress.BarColumn(),
            _StateColumn(),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield _Lines(label, total, console)


class _StateColumn(rich.progress.ProgressColumn):
    """The completed count, the rate and the time left."""

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        """Returns the text to the right of the bar."""
        return rich.text.Text(_state(task.completed, task.total, task.speed))


class _Lines:
    """Prints a line every `EVERY` seconds."""

    def __init__(
        self, label: str, total: float | None, console: rich.console.Console
    ):
        self._label, self._total, self._console = label, total, console
        self._done = 0.0
        self._printed = time.monotonic()
        self._first: tuple[float, float] | None = None

    def __call__(self, count: float) -> None:
        now = time.monotonic()
        self._done += count
        if self._first is None:  # The first batch is mostly compilation.
            self._first = self._done, now
        if now - self._printed < EVERY:
            return
        self._printed = now
        done, since = self._first
        speed = (self._done - done) / (now - since) if now > since else None
        state = _state(self._done, self._total, speed)
        terminal.say(f"{self._label}: {state}", console=self._console)


def _state(done: float, total: float | None, speed: float | None) -> str:
    """Returns the state as text: "256 of 1,000, 32/s, 0:23 left"."""
    is_share = total == 1.0
    if is_share:
        parts = [f"{done:.0%}"]
    else:
        parts = [f"{done:,.0f}" + (f" of {total:,.0f}" if total else "")]
    if speed:
        if not is_share:
            parts.append(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s")
        if total:
            parts.append(f"{_clock((total - done) / speed)} left")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}"


def _is_first() -> bool:
    """Returns whether this is process 0, without initializing devices."""
    if "jax" not in sys.modules:
        return True
    from jax._src import distributed

    return not distributed.global_state.process_id
