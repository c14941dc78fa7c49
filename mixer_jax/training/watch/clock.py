"""Where a run's time goes, and where it stands now."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

START = "start"  # all that comes before the loop
COMPILE = "compile"  # the first step, which is mostly that
STEP = "step"  # what the run is for: the device computes, the host waits
INPUT = "input"  # the device has nothing to do, for want of a batch
GRAPH = "graph"
CHECKPOINT = "checkpoint"
MONITORS = "monitors"

PHASES = (START, COMPILE, STEP, INPUT, GRAPH, CHECKPOINT, MONITORS)


class Place(NamedTuple):
    """Where a process stands.

    Attributes:
      step: steps taken.
      phase: one of `PHASES`.
      since: seconds that it has been there.
    """

    step: int
    phase: str
    since: float


class Clock:
    """Splits the time since its making into phases.

    The host's time is split, as the host sees the device: a step's own time is
    what the host waits for it.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        """Begins in the phase `START`."""
        self._now = now
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._reported = dict(self._seconds)
        # One tuple, so that other threads see step and phase that belong
        # together.
        self._place = (0, START, now())

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts what happens within as one phase."""
        before = self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def enter(self, name: str, was: str | None = None) -> str:
        """Goes over to a phase.

        Args:
          name: of the phase that begins.
          was: what the phase that ends shall count as, if not as itself.

        Returns:
          The name of the phase that ends.
        """
        step, before, since = self._place
        now = self._now()
        self._seconds[was or before] += now - since
        self._place = (step, name, now)
        return before

    def count(self, step: int) -> None:
        """Notes how many steps are taken."""
        self.enter(self._place[1])
        self._place = (step, *self._place[1:])

    @property
    def place(self) -> Place:
        """Where the run stands; safe to ask in another thread."""
        step, phase, since = self._place
        return Place(step, phase, self._now() - since)

    def split(self) -> dict[str, float]:
        """Returns the share of each phase since the last call, and goodput.

        Returns:
          `time_PHASE`, of the phases that took any time: the shares of all of
          them have the sum 1; and `goodput`, the share of the time since the
          beginning that went into steps.
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
