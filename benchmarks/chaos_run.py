"""Training run of `benchmarks.chaos`, in processes on this machine."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mixer_jax.experiments import measure
from mixer_jax.retrieval import evaluate, runs
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import checkpoints, row_files, workdir
from mixer_jax.training.watch import logs

ROOT = pathlib.Path(__file__).parents[1]
STAGES = ("stage1", "stage2", "stage3")
_FOLDER = "run"  # in the processes' working directory
_THREADS = 8
_GRACE = 10.0  # seconds between a process's exit and killing the others


class Place(NamedTuple):
    """A step of a stage; `stage` is an index into `STAGES`."""

    stage: int
    step: int


class Run:
    """A scaled-down run of the quickstart's curriculum."""

    def __init__(
        self,
        folder: pathlib.Path,
        data: str,
        steps: int,
        seed: int,
        more: Sequence[str] = (),
    ):
        """Makes the folder without starting the run.

        Args:
          folder: the folder for all output of the run.
          data: the folder of `medium.csv` and `large.csv`.
          steps: the number of steps per stage.
          seed: determines a different seed for each stage.
          more: additional `key=value` settings of each stage.
        """
        folder.mkdir(exist_ok=True)
        self.folder, self.workdir = folder, folder / _FOLDER
        self._log = folder / "log.txt"
        self._steps = steps
        self._flags = [f"--config={ROOT / 'configs/quickstart.py'}"]
        data = pathlib.Path(data).resolve()
        for index, stage in enumerate(STAGES):
            table = data / ("large.csv" if index else "medium.csv")
            self._flags += [
                f"--config.{stage}.{flag}"
                for flag in (
                    f"seed={len(STAGES) * seed + index}",
                    f"steps={steps}",
                    f"data.table={table}",
                    f"evaluate.table={data / 'medium.csv'}",
                    "evaluate.distractors=train",
                    "data.image_size=16",
                    "model.image.name=tiny",
                    "model.image.pretrained=",
                    "model.text.name=tiny",
                    "model.text.pretrained=",
                    "batch_size=32",
                    "model.dim=64",
                    "model.hidden=128",
                    "model.slots=32",
                    "head.refresh=7",
                    "log_every=1",
                    "checkpoint.every=10",
                    "monitors.every=1000",
                    *more,
                )
            ]

    def start(self, count: int, devices: int) -> list[subprocess.Popen]:
        """Starts `count` processes with `devices` devices in total."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices // count),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            # Programs may be compiled at every start, but run only briefly.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            # Fix the number of threads, which determines the order of sums in
            # matrix products; by default, it depends on devices and cores.
            "NPROC": str(_THREADS),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "benchmarks.chaos_main", *self._flags]
        command += [f"--workdir={_FOLDER}", f"--processes={count}"]
        command += [f"--coordinator=127.0.0.1:{port}"]
        with open(self._log, "a") as log:
            return [
                subprocess.Popen(
                    [*command, f"--process={index}"],
                    cwd=self.folder,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
                for index in range(count)
            ]

    def finish(self, devices: int, until: Place | None = None) -> None:
        """Trains in one process, to the end or until a step is logged.

        Raises:
          UserError: if the run fails.
        """
        (process,) = self.start(1, devices)
        with ending([process]):
            while process.poll() is None:
                if until is not None and until in self.losses():
                    return
                time.sleep(0.1)
        if process.returncode:
            raise self.fail("The undisturbed run failed:")

    def rows(self) -> list[tuple[Place, float]]:
        """Returns the losses in the order of the log, including repetitions."""
        losses = []
        for index, stage in enumerate(STAGES):
            path = self.workdir / stage / logs.METRICS
            lines = path.read_text().splitlines() if path.exists() else []
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:
                    break  # The line is still being written.
                if "loss" in row:
                    losses.append((Place(index, row["step"]), row["loss"]))
        return losses

    def losses(self) -> dict[Place, float]:
        """Returns the loss of each step logged so far."""
        return dict(self.rows())

    def written(self) -> int:
        """Returns the time of the last logged loss in ns; 0 if none exists."""
        paths = (self.workdir / stage / logs.METRICS for stage in STAGES)
        return max(
            (p.stat().st_mtime_ns for p in paths if p.exists()), default=0
        )

    def next(self) -> Place:
        """Returns the step at which the run would start or resume."""
        for index in reversed(range(len(STAGES))):
            step = workdir.latest_step(self.workdir / STAGES[index])
            if step == self._steps:
                return Place(index + 1, 1)
            if step is not None:
                return Place(index, step + 1)
        return Place(0, 1)

    def saving(self) -> bool:
        """Returns whether an unfinished checkpoint exists."""
        folders = (self.workdir / s / workdir.CHECKPOINTS for s in STAGES)
        return any(any(folder.glob("*tmp*")) for folder in folders)

    def unfinished(self) -> list[str]:
        """Returns the names of unfinished files and folders."""
        names = (path.name for path in self.workdir.rglob("*"))
        return [
            name
            for name in names
            if name.startswith(".") or "tmp" in name or name.endswith(".draft")
        ]

    def measures(self) -> dict[str, float]:
        """Evaluates the last stage on held-out categories."""
        rows = measure.measure_models(
            runs.find_models(self.workdir, STAGES[-1:]),
            meshes.make_mesh(jax.devices()[:1]),
        )
        (row,) = (
            row
            for row in itertools.chain.from_iterable(rows)
            if row["split"] == "test" and row["gallery"] == "test"
        )
        return {name: row[name] for name in evaluate.MEASURES}

    def fail(self, message: str) -> UserError:
        """Returns an error with the end of the run's log."""
        tail = self._log.read_text().splitlines()[-30:]
        return UserError("\n".join([message, *tail]))


@contextlib.contextmanager
def ending(started: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Kills the remaining processes on exit, even if the block raises."""
    try:
        yield
    finally:
        send("SIGKILL", started)
        for process in started:
            process.wait()


def send(name: str, victims: Sequence[subprocess.Popen]) -> None:
    """Sends the signal called `name` to processes."""
    for process in victims:
        process.send_signal(getattr(signal, name))


def wait(started: Sequence[subprocess.Popen]) -> list[int]:
    """Waits for a run's processes; returns their exit codes.

    When a process has ended, the others are killed after a grace period, as a
    launcher would do: if one dies before all have connected, JAX waits for it
    for five minutes.
    """
    since = None
    while None in (codes := [process.poll() for process in started]):
        if since is None and any(code is not None for code in codes):
            since = time.monotonic()
        if since is not None and time.monotonic() > since + _GRACE:
            send("SIGKILL", started)
        time.sleep(0.02)
    return codes


def compare(one: Run, other: Run) -> dict[str, Any]:
    """Compares parameters and proxies in the last checkpoints of two runs."""
    mesh = meshes.make_mesh(jax.devices()[:1])
    folders = [run.workdir / STAGES[-1] for run in (one, other)]
    trained = [checkpoints.load_model(folder, mesh) for folder in folders]
    leaves = [jax.tree.leaves(model.variables) for model in trained]
    rows = [
        np.concatenate(list(row_files.open_proxies(folder).blocks()))
        for folder in folders
    ]
    pairs = [*zip(*leaves, strict=True), tuple(rows)]
    largest = max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
    same = all(np.array_equal(a, b) for a, b in pairs)
    return {"same bit for bit": same, "largest parameter difference": largest}
