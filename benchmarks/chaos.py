"""Kills a training run again and again, and compares what it comes to.

    python -m benchmarks.chaos [--kills=50] [--devices=4] [--processes=1,2,4] \
        [--steps=400] [--seed=0] [--json=chaos.json]

One run is left alone; another, of the same config, gets SIGKILL or SIGTERM at
random moments, in one or in all of its processes, and is started again with
the same command and another number of processes, and, where `--devices` names
several, of devices. At the end:

- with one number of devices, parameters and proxies have to be the same bit
  for bit, and so has every loss on the way;
- whenever a step is taken again from the same checkpoint, by other processes
  or on other devices, its loss is compared with that of before;
- nothing unfinished may be left in the folder.

The processes share this machine. Coordination is used for one process too, so
that sums are formed in one order.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mixer_jax import mesh as meshes
from mixer_jax import processes
from mixer_jax.errors import UserError
from mixer_jax.training import checkpoints, logs, row_files, workdir

CONFIG = (
    "--config=configs/stage1.py:runlocal",
    "--config.model.image.name=resnet18",
    "--config.model.image.pretrained=",
    "--config.data.image_size=32",
    "--config.data.max_skipped=0",
    "--config.batch_size=16",
    "--config.precision=float32",
    "--config.head.name=knn",
    "--config.head.active=1",
    "--config.head.refresh=7",
    "--config.log_every=1",
    "--config.checkpoint.every=10",
    "--config.monitors.every=1000",
)
_LONGEST = 10.0  # seconds after its first step until a run is killed


class Run:
    """A run of `mixer_jax.main` in one workdir."""

    def __init__(self, folder: pathlib.Path, flags: Sequence[str]):
        """Will run with these flags; nothing is started."""
        self.workdir, self._flags = folder, flags
        self._log = folder.with_suffix(".log")

    def start(self, count: int, devices: int) -> list[subprocess.Popen]:
        """Starts `count` processes of `devices` devices in all."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices // count),
        }
        with open(self._log, "a") as log:
            return [
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "mixer_jax.main"),
                        *self._flags,
                        f"--workdir={self.workdir}",
                        f"--coordinator=127.0.0.1:{port}",
                        f"--processes={count}",
                        f"--process={index}",
                    ],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
                for index in range(count)
            ]

    def losses(self) -> dict[int, float]:
        """Returns `{step: loss}` as logged so far."""
        path = self.workdir / logs.METRICS
        found = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    break  # It was being written when the run was killed.
                if "loss" in row:
                    found[row["step"]] = row["loss"]
        return found

    def fail(self, what: str) -> UserError:
        """Returns an error with the end of what the run has said."""
        said = self._log.read_text().splitlines()[-20:]
        return UserError("\n".join([what, *said]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--table", required=True, help="a sample table to train on")
    add("--kills", type=int, default=50)
    add("--devices", default="4", help="in all, comma-separated")
    add("--processes", default="1,2,4", help="comma-separated")
    add("--steps", type=int, default=400)
    add("--seed", type=int, default=0, help="of what is killed, and when")
    add("--json", default="", help="file to write the figures to")
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(given, pathlib.Path(folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name:>34}  {value}")
    if given.json:
        text = json.dumps(figures, indent=1) + "\n"
        pathlib.Path(given.json).write_text(text)
    return 0


def measure(given: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Runs both, and compares them."""
    devices = [int(n) for n in given.devices.split(",")]
    counts = [int(n) for n in given.processes.split(",")]
    flags = (
        *CONFIG,
        f"--config.data.table={given.table}",
        f"--config.steps={given.steps}",
    )
    whole = Run(folder / "whole", flags)
    begin = time.monotonic()
    for process in whole.start(1, devices[0]):
        if process.wait():
            raise whole.fail("The run that was left alone has failed:")
    undisturbed = time.monotonic() - begin
    broken = Run(folder / "broken", flags)
    rng = random.Random(given.seed)
    begin = time.monotonic()
    again, killed, codes = _torment(broken, rng, devices, counts, given)
    figures = {
        "kills": sum(killed.values()),
        **{f"of them {name}": number for name, number in killed.items()},
        "exit codes": codes,
        "steps": given.steps,
        "seconds undisturbed": round(undisturbed),
        "seconds disturbed": round(time.monotonic() - begin),
        "steps taken again": len(again),
        "largest relative loss difference": max(again, default=0.0),
        "unfinished files left": _unfinished(broken.workdir),
    }
    one, other = whole.losses(), broken.losses()
    figures["steps logged once each"] = list(other) == list(one)
    figures["losses that differ"] = sum(
        one[step] != other.get(step) for step in one
    )
    return figures | _compare(whole.workdir, broken.workdir)


def _torment(
    run: Run,
    rng: random.Random,
    devices: list[int],
    counts: list[int],
    given: argparse.Namespace,
) -> tuple[list[float], dict[str, int], dict[str, int]]:
    """Starts and kills until all kills are spent, then lets the run end.

    Returns:
      The relative differences of the losses of first steps that were taken
      again, how often each signal was sent, and the exit codes.
    """
    again: list[float] = []
    killed = {"SIGKILL": 0, "SIGTERM": 0}
    codes: dict[str, int] = {}
    while True:
        before = run.losses()
        start = workdir.latest_step(run.workdir) or 0
        total = rng.choice(devices)
        count = rng.choice([n for n in counts if total % n == 0])
        begun = run.start(count, total)
        kill = sum(killed.values()) < given.kills
        if kill:
            name = rng.choice(sorted(killed))
            if _wait(begun, run, start, rng):
                victims = rng.choice([begun, [rng.choice(begun)]])
                for process in victims:
                    process.send_signal(getattr(signal, name))
                killed[name] += 1
        ended = [process.wait() for process in begun]
        for code in ended:
            codes[str(code)] = codes.get(str(code), 0) + 1
        first = start + 1
        if first in before and first in (now := run.losses()):
            again.append(abs(now[first] - before[first]) / abs(before[first]))
        if processes.WRONG in ended:
            raise run.fail("A run that was started again has failed:")
        if workdir.latest_step(run.workdir) == given.steps and not any(ended):
            return again, killed, codes


def _wait(
    begun: list[subprocess.Popen], run: Run, start: int, rng: random.Random
) -> bool:
    """Waits for the moment to kill; False if the run ended by itself.

    Half of the moments are before the first step: while the run reads its
    checkpoint, compiles, or does what comes before.
    """
    early = rng.random() < 0.5
    moment = time.monotonic() + rng.uniform(0, _LONGEST)
    while time.monotonic() < moment:
        time.sleep(0.02)
        if any(process.poll() is not None for process in begun):
            return False
        if not early and max(run.losses(), default=0) <= start:
            moment = time.monotonic() + rng.uniform(0, _LONGEST / 4)
    return True


def _unfinished(folder: pathlib.Path) -> int:
    """Counts files and folders that were not finished."""
    names = (path.name for path in folder.rglob("*"))
    return sum("tmp" in name or name.endswith(".draft") for name in names)


def _compare(one: pathlib.Path, other: pathlib.Path) -> dict[str, Any]:
    """Compares the last checkpoints' parameters and proxies."""
    mesh = meshes.make_mesh(jax.devices()[:1])
    trained = [checkpoints.load_model(folder, mesh) for folder in (one, other)]
    leaves = [jax.tree.leaves(model.variables) for model in trained]
    rows = [
        np.concatenate(list(row_files.open_proxies(folder).blocks))
        for folder in (one, other)
    ]
    pairs = [*zip(*leaves, strict=True), tuple(rows)]
    most = max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)
    same = all(np.array_equal(a, b) for a, b in pairs)
    return {"same bit for bit": same, "largest parameter difference": most}


if __name__ == "__main__":
    sys.exit(main())
