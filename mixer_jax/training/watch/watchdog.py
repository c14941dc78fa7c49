"""A watchdog that ends a stalled run and reports where it hangs."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import jax

from mixer_jax.runtime import processes
from mixer_jax.training.watch.clock import Clock, Place

_TELL = 1 / 8  # interval between reports, as a share of the limit


def describe(places: dict[int, Place], limit: float, me: int) -> str:
    """Returns a message naming the process that the others wait for.

    Args:
      places: the last reported place of each process; `since` counts until now,
        even if a process no longer reports.
      limit: the maximum number of seconds without progress.
      me: the index of this process.
    """
    if len(places) == 1:
        place = places[me]
        return (
            f"No progress for {place.since:.0f} s (watchdog is {limit:g}) at "
            f"step {place.step}, in phase '{place.phase}'."
        )
    # Waiting processes are at a later step than the process they wait for, or
    # at the same step in the phase "step".
    min_step = min(place.step for place in places.values())
    behind = [i for i in places if places[i].step == min_step]
    apart = [i for i in behind if places[i].phase != "step"]
    longest = max(apart or behind, key=lambda i: places[i].since)
    place = places[longest]
    others = ", ".join(
        f"{i} at step {p.step} in phase '{p.phase}'"
        for i, p in sorted(places.items())
        if i != longest
    )
    return (
        f"No progress for more than {limit:g} s (watchdog). Process {longest} "
        f"is holding up the others: it has been at step {place.step} in phase "
        f"'{place.phase}' for {place.since:.0f} s. The others: {others}."
    )


class Watchdog:
    """A thread that ends the run if its clock stops; a context manager.

    It writes the stack of every thread of this process to standard error, then
    ends all processes with the exit code `processes.HUNG`.
    """

    def __init__(
        self,
        clock: Clock,
        limit: float,
        end: Callable[[str, int], NoReturn] = processes.end_all,
    ):
        """Stores the arguments; entering the context starts the thread.

        Args:
          clock: the run's clock.
          limit: maximum seconds in one phase of one step; 0 for no limit.
          end: ends all processes with a message and an exit code.
        """
        self._clock, self._limit, self._end = clock, limit, end
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._limit > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._limit * _TELL):
            place = self._clock.place
            # Send the start time, so that receivers see the duration grow.
            processes.tell("place", place._replace(since=_ago(place.since)))
            if place.since > self._limit:
                self._stop(place)

    def _stop(self, place: Place) -> None:
        me = jax.process_index()
        places = {
            index: Place(step, phase, _ago(since))
            for index, (step, phase, since) in processes.told("place").items()
        }
        message = describe(places | {me: place}, self._limit, me)
        print(f"error: {message}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        self._end(message, processes.HUNG)


def _ago(seconds: float) -> float:
    """Converts seconds before now to a timestamp, or back."""
    return time.time() - seconds
