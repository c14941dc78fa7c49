"""Runs of several real processes: start, communication and end."""

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
def run_act(cache):
    """Returns a function that runs a worker's act in several processes."""

    def run(name, count, *more):
        command = (*WORKER, f"--act={name}", *more)
        return several.finish(several.begin(command, count, 2, cache))

    return run


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gather_returns_the_values_of_all_processes(run_act, count):
    names = [f"n{index}" for index in range(count)]
    for ended in run_act("gather", count):
        assert ended.code == 0, ended.error
        assert f"{names} {2 * count}" in ended.output


@pytest.mark.parametrize("count", [1, 2, 4])
def test_error_in_one_process_ends_all_with_its_message(run_act, count):
    results = run_act("wrong", count)
    assert [ended.code for ended in results] == [processes.WRONG] * count
    for index, ended in enumerate(results):
        other = f"process {count - 1} ended the run: "
        prefix = "error: " + ("" if index == count - 1 else other)
        assert f"{prefix}The table has no rows.\n" in ended.error
        assert "Traceback" not in ended.error


def test_error_in_all_processes_is_printed_by_each(run_act):
    """No process aborts if process 0, which runs JAX's service, ends first."""
    for ended in run_act("wrong_for_all", 2):
        assert ended.code == processes.WRONG, ended.error
        assert "error: The table has no rows.\n" in ended.error


def test_crash_of_one_process_ends_all_with_its_message(run_act):
    first, second = run_act("crash", 2)
    assert first.code == second.code == 1
    assert "Traceback" in second.error
    assert (
        "error: process 1 ended the run: ZeroDivisionError: of all things"
    ) in first.error


@pytest.mark.parametrize("when", ["before", "in"])
def test_death_of_a_process_is_not_reported_as_a_failed_write(
    run_act, tmp_path, when
):
    first, second = run_act(f"die_{when}_save", 2, f"--folder={tmp_path}")
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
def test_device_errors_are_distinguished_from_file_errors(fail, expected):
    with pytest.raises((ValueError, OSError)) as error:
        fail()
    assert processes.raised_by_devices(error.value) == expected


@pytest.mark.parametrize("way", ["stop", "stop_by_hand"])
@pytest.mark.parametrize("count", [1, 2])
def test_signal_to_one_process_stops_all_at_the_same_step(run_act, count, way):
    results = run_act(way, count)
    assert [ended.code for ended in results] == [75] * count
    assert stopped_at(results) > 3


def stopped_at(results):
    """Returns the step at which all processes stopped."""
    steps = {re.search(r"stopped at (\d+)", e.output)[1] for e in results}
    assert len(steps) == 1
    return int(steps.pop())


def test_signal_before_the_first_step_is_not_lost(cache):
    """Holds for several processes and for a single one with a coordinator."""
    command = (*WORKER, "--act=stop_early")
    both = several.finish(several.begin(command, 2, 1, cache))
    assert [ended.code for ended in both] == [processes.PREEMPTED] * 2
    assert stopped_at(both) < 1000
    begun = several.begin(command, 1, 1, cache, coordinate_one=True)
    (alone,) = several.finish(begun)
    assert alone.code == processes.PREEMPTED, alone.error
    assert "Interrupted" in alone.error


def test_frozen_process_is_reported_by_the_others(cache):
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
    ("given", "message"),
    [
        (("", 2, -1), "must be used together"),
        (("h:1", 0, 0), "must be used together"),
        (("h", 2, 0), "--coordinator is 'h'; it must be HOST:PORT"),
        (("h:", 2, 0), "must be HOST:PORT"),
        ((":1", 2, 0), "must be HOST:PORT"),
        (("h:port", 2, 0), "must be HOST:PORT"),
        (("h:65536", 2, 0), "must be HOST:PORT"),
        (("h:1", 2, 2), "--process=2 is out of range for --processes=2"),
    ],
)
def test_inconsistent_flags_raise_an_error(given, message):
    with pytest.raises(UserError, match=message):
        processes.start(*given)


def test_partly_detected_cluster_is_an_error(monkeypatch):
    def partly(*arguments):
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", partly)
    with pytest.raises(UserError, match=r"must be defined\. Set --coordinator"):
        processes.start()


def test_failed_connection_may_be_retried(monkeypatch, capsys):
    def alone(*arguments):
        raise jax.errors.JaxRuntimeError(
            "DEADLINE_EXCEEDED: nobody came\nat all"
        )

    monkeypatch.setattr(jax.distributed, "initialize", alone)
    with pytest.raises(SystemExit) as ended:
        processes.start("host0:8476", 2, 1)
    assert ended.value.code == 1  # A restart may succeed.
    assert (
        "process 1 of 2 could not connect to the others at host0:8476: "
        "DEADLINE_EXCEEDED: nobody came\n"
    ) in capsys.readouterr().err


def test_single_process_needs_no_coordination():
    assert processes.gather("alone", [1, 2]) == [[1, 2]]
    assert processes.told("alone") == {}
    processes.tell("alone", 3)
    processes.barrier("alone")
    with processes.Preemption() as preemption:
        assert not preemption.reached()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.reached()
    # The previous handler is restored on exit.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signal_after_the_last_step_interrupts_the_command(capsys):
    begun = []

    def work():
        with contextlib.ExitStack() as outer:
            # A second signal arrives while the first one ends the run.
            outer.callback(signal.raise_signal, signal.SIGTERM)
            with processes.Preemption() as preemption:
                assert not preemption.reached()
                signal.raise_signal(signal.SIGTERM)
            begun.append("the next step")

    assert command.run(work) == processes.PREEMPTED
    assert capsys.readouterr().err == f"{command.INTERRUPTION}\n"
    assert not begun


def test_several_processes_own_a_folder_together(run_act, tmp_path):
    folder = tmp_path / "b[1]\\2"
    for ended in run_act("own", 2, f"--folder={folder}"):
        assert ended.code == 0, ended.error
    assert workdir.latest_step(folder) == 1
    assert {path.name for path in folder.iterdir()} == {"checkpoints"}
    with folder_lock.hold(folder, "--workdir"):
        refused = run_act("own", 2, f"--folder={folder}")
    for ended in refused:
        assert ended.code == processes.WRONG, ended.error
        assert f"error: Another run is using {folder}: process " in ended.error
        assert "Traceback" not in ended.error


@pytest.mark.parametrize("hangs", [False, True])
def test_hanging_last_action_does_not_block_the_end(monkeypatch, hangs):
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
