"""A clock that splits a run's time into phases."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

START = "start"  # everything before the loop
COMPILE = "compile"  # the first step, which is mostly compilation
STEP = "step"  # the device computes, and the host waits for it
INPUT = "input"  # the device is idle and waits for a batch
GRAPH = "graph"
CHECKPOINT = "checkpoint"
MONITORS = "monitors"

PHASES = (START, COMPILE, STEP, INPUT, GRAPH, CHECKPOINT, MONITORS)


class Place(NamedTuple):
    """The current step and phase of a process.

    Attributes:
      step: the number of steps taken.
      phase: one of `PHASES`.
      since: seconds spent in this step and phase so far.
    """

    step: int
    phase: str
    since: float


class Clock:
    """Splits the time since its creation into phases.

    It measures host time: a step takes as long as the host waits for it.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        """Starts in the phase `START`."""
        self._now = now
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._reported = dict(self._seconds)
        # One tuple, so that other threads see a consistent step and phase.
        self._place = (0, START, now())

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time within the context as the phase `name`."""
        before = self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, name: str, was: str | None = None) -> str:
        """Enters a phase.

        Args:
          name: the name of the phase that begins.
          was: the phase credited with the elapsed time; by default, the phase
            that ends.

        Returns:
          The name of the phase that ends.
        """
        step, before, since = self._place
        now = self._now()
        self._seconds[was or before] += now - since
        self._place = (step, name, now)
        return before

    def count(self, step: int) -> None:
        """Sets the number of steps taken."""
        self.enter(self._place[1])
        self._place = (step, *self._place[1:])

    @property
    def place(self) -> Place:
        """The current step and phase; safe to read from another thread."""
        step, phase, since = self._place
        return Place(step, phase, self._now() - since)

    def split(self) -> dict[str, float]:
        """Returns the share of each phase since the last call, and goodput.

        Returns:
          `time_PHASE` for each phase that took any time, with shares that sum
          to 1; and `goodput`, the share of steps in the total time so far.
        """
        self.enter(self._place[1])
        spent = {
            name: seconds - self._reported[name]
            for name, seconds in self._seconds.items()
        }
        self._reported = dict(self._seconds)
        total = max(sum(spent.values()), 1e-9)
        shares = {
            f"time_{name}": seconds / total
            for name, seconds in spent.items()
            if seconds > 0
        }
        everything = max(sum(self._seconds.values()), 1e-9)
        return shares | {"goodput": self._seconds[STEP] / everything}
