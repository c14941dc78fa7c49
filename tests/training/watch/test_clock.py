import pytest

from mixer_jax.training.watch import clock as clock_lib
from mixer_jax.training.watch.clock import CHECKPOINT, INPUT, STEP, Clock


class Time:
    """A manually advanced clock."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def clock(time):
    return Clock(time)


def test_split_assigns_all_time_to_phases(clock, time):
    time.now += 4  # start
    clock.enter(STEP)
    time.now += 5
    with clock.phase(CHECKPOINT):
        time.now += 1
    assert clock.split() == {
        "time_start": 0.4,
        "time_step": 0.5,
        "time_checkpoint": 0.1,
        "goodput": 0.5,
    }
    time.now += 10
    # Shares cover the time since the last call; goodput covers all time.
    assert clock.split() == {"time_step": 1.0, "goodput": 0.75}


def test_phase_can_count_as_another(clock, time):
    clock.enter(INPUT)
    time.now += 3
    clock.enter(STEP, STEP)
    clock.enter(INPUT)
    time.now += 1
    clock.enter(STEP, INPUT)
    assert clock.split() == {
        "time_step": 0.75,
        "time_input": 0.25,
        "goodput": 0.75,
    }


def test_exception_ends_the_phase(clock):
    clock.enter(STEP)
    with pytest.raises(ZeroDivisionError), clock.phase(CHECKPOINT):
        raise ZeroDivisionError
    assert clock.place.phase == STEP


def test_place_has_step_phase_and_duration(clock, time):
    assert clock.place == (0, "start", 0.0)
    time.now += 2
    clock.count(7)
    time.now += 3
    assert clock.place == (7, "start", 3.0)
    clock.enter(INPUT)
    assert clock.place == (7, INPUT, 0.0)


def test_no_elapsed_time_gives_no_shares(clock):
    assert clock.split() == {"goodput": 0.0}
    assert set(clock_lib.PHASES) >= {STEP, INPUT, CHECKPOINT}
