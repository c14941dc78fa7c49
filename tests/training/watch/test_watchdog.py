import threading
import time

import pytest

from mixer_jax.runtime import processes
from mixer_jax.training.watch.clock import INPUT, STEP, Clock, Place
from mixer_jax.training.watch.watchdog import Watchdog, describe


class Ends:
    """Records its arguments instead of ending the process."""

    def __init__(self):
        self.called = threading.Event()
        self.arguments = None

    def __call__(self, message, code):
        self.arguments = (message, code)
        self.called.set()


def test_stalled_run_ends_with_its_place_and_traceback(capfd):
    clock, ends = Clock(), Ends()
    clock.count(12)
    clock.enter(INPUT)
    with Watchdog(clock, 0.2, ends):
        assert ends.called.wait(60)
    message, code = ends.arguments
    assert code == processes.HUNG
    assert "No progress for" in message
    assert "at step 12, in phase 'input'" in message
    traces = capfd.readouterr().err
    assert message in traces
    # The stacks of all threads, including this one.
    assert "test_stalled_run_ends_with_its_place_and_traceback" in traces


def test_progressing_run_is_not_stopped():
    clock, ends = Clock(), Ends()
    with Watchdog(clock, 2.0, ends):
        for step in range(25):
            clock.count(step)
            time.sleep(0.1)
    assert ends.arguments is None


def test_zero_limit_starts_no_thread():
    threads = threading.active_count()
    with Watchdog(Clock(), 0.0, Ends()):
        assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("places", "culprit"),
    [
        # A process one step behind blocks the others.
        ({0: (8, STEP, 61), 1: (7, INPUT, 62), 2: (8, STEP, 61)}, 1),
        # At the same step, a process in another phase blocks the others.
        ({0: (8, STEP, 61), 1: (8, STEP, 61), 2: (8, "graph", 61)}, 2),
        # In the same step and phase, the process there longest blocks them.
        ({0: (8, STEP, 61), 1: (8, STEP, 75), 2: (8, STEP, 61)}, 1),
    ],
)
def test_message_names_the_blocking_process(places, culprit):
    places = {index: Place(*place) for index, place in places.items()}
    message = describe(places, 60.0, 0)
    assert f"Process {culprit} is holding up the others" in message
    assert f"in phase '{places[culprit].phase}' for" in message
    for other in set(places) - {culprit}:
        assert f"{other} at step {places[other].step}" in message
