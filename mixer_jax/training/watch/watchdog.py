"""Ends a run that stands still, and says which process did, and where."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import jax

from mixer_jax.runtime import processes
from mixer_jax.training.watch.clock import Clock, Place

_TELL = 1 / 8  # of the limit: how often processes tell where they stand


def describe(places: dict[int, Place], limit: float, me: int) -> str:
    """Says which process holds the others up.

    Args:
      places: where each process stood when it told it last; `since` counts
        on until now, also where it tells nothing any more.
      limit: seconds that none may stand still.
      me: the process that says so.

    Returns:
      A sentence.
    """
    if len(places) == 1:
        place = places[me]
        return (
            f"Nothing has moved for {place.since:.0f} s (watchdog is "
            f"{limit:g}) at step {place.step}, in the phase "
            f"'{place.phase}'."
        )
    # Those that wait have got further than the one that they wait for; of
    # equals it is the one that does something else than waiting for a step.
    least = min(place.step for place in places.values())
    behind = [i for i in places if places[i].step == least]
    apart = [i for i in behind if places[i].phase != "step"]
    longest = max(apart or behind, key=lambda i: places[i].since)
    place = places[longest]
    others = ", ".join(
        f"{i} at step {p.step} in '{p.phase}'"
        for i, p in sorted(places.items())
        if i != longest
    )
    return (
        f"Nothing has moved for more than {limit:g} s (watchdog). Process "
        f"{longest} holds the others up: it stands at step {place.step} in the "
        f"phase '{place.phase}' since {place.since:.0f} s. The others: "
        f"{others}."
    )


class Watchdog:
    """A thread that ends the process once its clock stands still.

    It ends all processes with the code `processes.HUNG`, after it has written
    what every thread of this one is doing to standard error. A context manager.
    """

    def __init__(
        self,
        clock: Clock,
        limit: float,
        end: Callable[[str, int], NoReturn] = processes.end_all,
    ):
        """Watches `clock`.

        Args:
          clock: of the run.
          limit: seconds in one phase of one step; 0 is for ever.
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
            # Told as the time of day since when: it grows older by itself.
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
    """Turns a span until now into its beginning, and back."""
    return time.time() - seconds
