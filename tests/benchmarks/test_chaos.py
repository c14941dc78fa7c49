"""Tests that the chaos benchmark counts kills and notices differences."""

import json
import subprocess
import sys

import pytest

from benchmarks import chaos, chaos_run
from benchmarks.chaos_run import Place, Run
from mixer_jax.runtime import processes
from mixer_jax.runtime.errors import UserError

# Runs the missing steps, with one loss per line of a file; the third argument
# is the loss of step 5.
SCRIPT = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
path, last, fifth = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
done = len(path.read_text().splitlines()) if path.exists() else 0
for step in range(done + 1, last + 1):
    time.sleep(0.02)
    with path.open("a") as file:
        file.write((fifth if step == 5 else str(100 + step)) + "\\n")
"""


class Counting(Run):
    """A simulated run that only logs one loss per step."""

    def __init__(self, folder, fifth="105"):
        super().__init__(folder, "unused", 20, 0)
        self.file, self.fifth = folder / "losses", fifth

    def start(self, count, devices):
        command = [sys.executable, "-c", SCRIPT, self.file, "20", self.fifth]
        return [subprocess.Popen(command)]

    def rows(self):
        lines = self.file.read_text().split() if self.file.exists() else []
        return [(Place(0, n), float(x)) for n, x in enumerate(lines, 1)]

    def written(self):
        return len(self.losses())

    def next(self):
        return Place(0, len(self.losses()) + 1)

    def saving(self):
        return len(self.losses()) % 3 == 0


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(chaos, "_STARTING", 0.1)
    monkeypatch.setattr(chaos, "_TRAINING", 0.1)


def kill_a_run(tmp_path, fifth="105"):
    whole = Counting(tmp_path / "whole")
    whole.finish(1)
    broken = Counting(tmp_path / "broken", fifth)
    killed = chaos.KilledRun(broken, whole, broken, [1], [1], seed=0)
    killed.run(kills=5)
    assert broken.losses().keys() == whole.losses().keys()
    return killed


def test_kills_the_given_number_of_times_and_lets_the_run_finish(tmp_path):
    killed = kill_a_run(tmp_path)
    assert sum(killed.kills.values()) == 5
    assert sum(killed.codes.values()) == 6
    assert killed.codes["0"] == 1
    assert set(killed.codes) <= {"0", "-9", "-15", str(processes.PREEMPTED)}
    assert killed.first
    assert not any(killed.first)


def test_a_different_first_loss_is_noticed(tmp_path, monkeypatch):
    # A run that is killed after step 4 resumes at step 5.
    monkeypatch.setattr(Counting, "saving", lambda run: run.next().step == 5)
    monkeypatch.setattr(chaos, "STATES", ("saving",))
    killed = kill_a_run(tmp_path, fifth="210")
    assert max(killed.first) == pytest.approx(1.0)


def test_a_run_that_fails_by_itself_is_not_restarted_forever(tmp_path):
    broken = Counting(tmp_path / "broken")
    broken.start = lambda *_: [
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(70)"])
    ]
    (broken.folder / "log.txt").write_text("It hangs.\n")
    killed = chaos.KilledRun(broken, broken, broken, [1], [1], seed=0)
    with pytest.raises(UserError, match="It hangs"):
        killed.run(kills=0)


def test_unfinished_files_are_listed(tmp_path):
    run = Run(tmp_path / "run", "unused", 20, 0)
    folder = run.workdir / "stage1" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "10").mkdir()
    assert run.unfinished() == []
    assert not run.saving()
    (folder / "20.orbax-checkpoint-tmp").mkdir()
    (run.workdir / "stage1" / "config.json.draft").write_text("{}")
    names = {"20.orbax-checkpoint-tmp", "config.json.draft"}
    assert set(run.unfinished()) == names
    assert run.saving()


def test_losses_are_readable_while_being_written(tmp_path):
    run = Run(tmp_path / "run", "unused", 20, 0)
    (run.workdir / "stage2").mkdir(parents=True)
    row = json.dumps({"step": 1, "loss": 2.5})
    rows = [row, json.dumps({"step": 1}), row]
    text = "\n".join([*rows, '{"step": 2, "lo'])
    (run.workdir / "stage2" / "metrics.jsonl").write_text(text)
    assert run.losses() == {Place(1, 1): 2.5}
    assert run.rows() == [(Place(1, 1), 2.5)] * 2
    assert run.next() == Place(0, 1)


def test_the_remaining_processes_are_killed_after_one_ends(monkeypatch):
    monkeypatch.setattr(chaos_run, "_GRACE", 0.2)
    commands = ["import time; time.sleep(600)", "raise SystemExit(3)"]
    started = [subprocess.Popen([sys.executable, "-c", c]) for c in commands]
    assert chaos_run.wait(started) == [-9, 3]


def test_no_process_outlives_an_interruption(tmp_path, monkeypatch):
    started = []

    def start(count, devices):
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        started.append(subprocess.Popen(command))
        return started[-1:]

    def interrupt(*_):
        raise KeyboardInterrupt

    run = Counting(tmp_path / "run")
    run.start = start
    killed = chaos.KilledRun(run, run, run, [1], [1], seed=0)
    monkeypatch.setattr(killed, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        killed.run(kills=1)
    monkeypatch.setattr(run, "losses", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.finish(1, until=Place(0, 1))
    assert [process.poll() for process in started] == [-9, -9]
