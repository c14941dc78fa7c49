"""Profiles selected steps when requested by the config or a signal."""

import pathlib
import re
import signal
import threading
from typing import Any

import jax

from mixer_jax.runtime.errors import UserError

_STEPS = 5  # number of steps captured after a signal


def parse(steps: str) -> range:
    """Returns the steps of `config.profile`: "FIRST:LAST", or "" for none.

    Raises:
      UserError: if it is anything else.
    """
    if not steps:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", steps)
    if not match or int(match[1]) > int(match[2]):
        raise UserError(
            f"profile is '{steps}'; it must be FIRST:LAST, the first and the "
            "last step of a capture, as in 100:105."
        )
    return range(int(match[1]), int(match[2]) + 1)


class Profiler:
    """Captures host and device traces of some steps; a context manager.

    SIGUSR1 captures the next five steps. The captures are in
    `FOLDER/plugins/profile`, for TensorBoard's profile plugin and Perfetto.
    """

    def __init__(self, folder: pathlib.Path, steps: range):
        """Stores the folder and the steps that this process captures."""
        self._folder, self._steps = folder, steps
        self._asked = self._running = False
        self._before: Any = None

    def __enter__(self) -> "Profiler":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGUSR1, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)
        self._stop()

    def before(self, step: int, last: Any = None) -> None:
        """Starts or ends a capture, between two steps.

        Args:
          step: the step that is about to be taken.
          last: arrays of the previous step; a capture ends once they are ready.
        """
        if self._asked:
            self._asked = False
            self._steps = range(step, step + _STEPS)
        if self._running and step not in self._steps:
            jax.block_until_ready(last)
            self._stop()
        elif not self._running and step in self._steps:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def _ask(self, *_: object) -> None:
        self._asked = True
