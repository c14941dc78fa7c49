"""Real processes on this machine: they start, agree and end together."""

import contextlib
import json
import re
import signal
import threading

import jax
import jax.numpy as jnp
import pytest

from mixer_jax.runtime import command, processes
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock
from mixer_jax.training.checkpoint import workdir
from tests import several

WORKER = ("tests/processes_worker.py",)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def act(cache):
    """Lets some processes act; returns what they left."""

    def run(what, count, *more):
        command = (*WORKER, f"--act={what}", *more)
        return several.finish(several.begin(command, count, 2, cache))

    return run


@pytest.mark.parametrize("count", [1, 2, 4])
def test_all_processes_are_one_run(act, count):
    names = [f"n{index}" for index in range(count)]
    for ended in act("gather", count):
        assert ended.code == 0, ended.error
        assert f"{names} {2 * count}" in ended.output


@pytest.mark.parametrize("count", [1, 2, 4])
def test_what_is_wrong_for_one_ends_all_with_its_message(act, count):
    everyone = act("wrong", count)
    assert [ended.code for ended in everyone] == [processes.WRONG] * count
    for index, ended in enumerate(everyone):
        other = f"process {count - 1} has ended, and so all: "
        said = "error: " + ("" if index == count - 1 else other)
        assert f"{said}The table has no rows.\n" in ended.error
        assert "Traceback" not in ended.error


def test_what_is_wrong_for_all_is_said_by_each(act):
    """None aborts as process 0, which holds JAX's service, leaves first."""
    for ended in act("wrong_for_all", 2):
        assert ended.code == processes.WRONG, ended.error
        assert "error: The table has no rows.\n" in ended.error


def test_a_crash_of_one_ends_all_with_its_message(act):
    first, second = act("crash", 2)
    assert first.code == second.code == 1
    assert "Traceback" in second.error
    assert (
        "error: process 1 has ended, and so all: ZeroDivisionError: of all "
        "things"
    ) in first.error


@pytest.mark.parametrize("when", ["before", "in"])
def test_another_process_that_dies_is_no_file_that_cannot_be_written(
    act, tmp_path, when
):
    first, second = act(f"die_{when}_save", 2, f"--folder={tmp_path}")
    assert second.code == -signal.SIGKILL
    assert first.code == 1
    assert "Gloo" in first.error
    assert "cannot be written" not in first.error


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (lambda: jnp.concatenate([]), True),
        (lambda: json.loads("{"), False),
        (lambda: jax.tree.map(json.loads, "{"), False),
        (lambda: jax.tree.map(open, "/no/such/file"), False),
    ],
)
def test_what_devices_raise_is_told_from_what_files_do(fail, expected):
    with pytest.raises((ValueError, OSError)) as error:
        fail()
    assert processes.raised_by_devices(error.value) == expected


@pytest.mark.parametrize("way", ["stop", "stop_by_hand"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_to_one_stops_all_at_the_same_step(act, count, way):
    everyone = act(way, count)
    assert [ended.code for ended in everyone] == [75] * count
    assert stopped_at(everyone) > 3


def stopped_at(everyone):
    """Returns the one step at which all processes have stopped."""
    steps = {re.search(r"stopped at (\d+)", e.output)[1] for e in everyone}
    assert len(steps) == 1
    return int(steps.pop())


def test_a_signal_before_the_first_step_is_not_lost(cache):
    """Whether of several processes or one that is coordinated alone."""
    command = (*WORKER, "--act=stop_early")
    both = several.finish(several.begin(command, 2, 1, cache))
    assert [ended.code for ended in both] == [processes.PREEMPTED] * 2
    assert stopped_at(both) < 1000
    begun = several.begin(command, 1, 1, cache, coordinate_one=True)
    (alone,) = several.finish(begun)
    assert alone.code == processes.PREEMPTED, alone.error
    assert "Interrupted" in alone.error


def test_a_frozen_process_is_named_by_the_others(cache):
    command = (*WORKER, "--act=freeze")
    begun = several.begin(command, 2, 1, cache)
    first = begun[0]
    _, error = first.communicate(timeout=120)
    begun[1].send_signal(signal.SIGKILL)
    several.finish(begun[1:])
    assert first.returncode == processes.HUNG, error
    assert "Process 1 is holding up the others" in error
    assert "at step 2 in phase 'input'" in error
    assert "together" in error  # The trace shows where process 0 waits.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("", 2, -1), "go together"),
        (("h:1", 0, 0), "go together"),
        (("h", 2, 0), "--coordinator is 'h'; it must be HOST:PORT"),
        (("h:", 2, 0), "must be HOST:PORT"),
        ((":1", 2, 0), "must be HOST:PORT"),
        (("h:port", 2, 0), "must be HOST:PORT"),
        (("h:65536", 2, 0), "must be HOST:PORT"),
        (("h:1", 2, 2), "--process=2 is none of --processes=2"),
    ],
)
def test_flags_that_do_not_fit_are_a_sentence(given, said):
    with pytest.raises(UserError, match=said):
        processes.start(*given)


def test_half_a_sign_of_others_is_not_taken_for_none(monkeypatch):
    def partly(*arguments):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", partly)
    with pytest.raises(UserError, match=r"must be defined\. Name them by"):
        processes.start()


def test_others_that_do_not_come_are_no_wrong_input(monkeypatch, capsys):
    def alone(*arguments):
        raise jax.errors.JaxRuntimeError(
            "DEADLINE_EXCEEDED: nobody came\nat all"
        )

    monkeypatch.setattr(jax.distributed, "initialize", alone)
    with pytest.raises(SystemExit) as ended:
        processes.start("host0:8476", 2, 1)
    assert ended.value.code == 1  # which a restart may mend
    assert (
        "process 1 of 2 has not met the others at host0:8476: "
        "DEADLINE_EXCEEDED: nobody came\n"
    ) in capsys.readouterr().err


def test_a_lone_process_needs_nobody():
    assert processes.gather("alone", [1, 2]) == [[1, 2]]
    assert processes.told("alone") == {}
    processes.tell("alone", 3)
    processes.barrier("alone")
    with processes.Preemption() as preemption:
        assert not preemption.reached()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.reached()
    # Outside, the signal is what it was.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_after_the_last_step_ends_what_would_come_next(capsys):
    begun = []

    def work():
        with contextlib.ExitStack() as outer:
            # As where a second one arrives while the first ends the run.
            outer.callback(signal.raise_signal, signal.SIGTERM)
            with processes.Preemption() as preemption:
                assert not preemption.reached()
                signal.raise_signal(signal.SIGTERM)
            begun.append("what comes next")

    assert command.run(work) == processes.PREEMPTED
    assert capsys.readouterr().err == f"{command.INTERRUPTION}\n"
    assert not begun


def test_several_processes_are_one_owner_of_a_folder_of_any_name(act, tmp_path):
    folder = tmp_path / "b[1]\\2"
    for ended in act("own", 2, f"--folder={folder}"):
        assert ended.code == 0, ended.error
    assert workdir.latest_step(folder) == 1
    assert {path.name for path in folder.iterdir()} == {"checkpoints"}
    with folder_lock.hold(folder, "--workdir"):
        refused = act("own", 2, f"--folder={folder}")
    for ended in refused:
        assert ended.code == processes.WRONG, ended.error
        assert f"error: Another run is using {folder}: process " in ended.error
        assert "Traceback" not in ended.error


@pytest.mark.parametrize("hangs", [False, True])
def test_a_process_that_ends_all_is_not_kept_by_what_it_does_last(
    monkeypatch, hangs
):
    done, codes, over = [], [], threading.Event()

    def last():
        done.append(True)
        if hangs:
            over.wait()

    monkeypatch.setattr(processes, "_ACTION_TIMEOUT", 0.05 if hangs else 60.0)
    monkeypatch.setattr(processes.os, "_exit", codes.append)
    with processes.leaving(last):
        processes.end_all("The table has no rows.", processes.WRONG)
    processes.end_all("The table has no rows.", processes.HUNG)
    over.set()
    assert (done, codes) == ([True], [processes.WRONG, processes.HUNG])
