"""Kills a training run repeatedly and compares it with an undisturbed run.

    python -m mixer_jax.demo.emoji --out=runs/chaos --limit=400
    python -m benchmarks.chaos --data=runs/chaos [--kills=50] [--devices=4] \
        [--processes=1,2,4] [--steps=60] [--seed=0] [--seeds=3] [--json=FILE]

One run of the quickstart's three stages is undisturbed. In another run with the
same config, one or all processes get SIGKILL or SIGTERM at random moments, and
the run is resumed by the same command with a random number of processes and, if
`--devices` lists several numbers, of devices. Then:

- With a single number of devices, the parameters, the proxies and all losses
  must be equal, bit for bit.
- With several numbers of devices, all proxies are active. The first loss after
  each restart must equal the loss computed from the same checkpoint with the
  first number of devices, and the final metrics must lie within the range of
  `--seeds` undisturbed runs.
- Every step must be logged once, and no unfinished files may be left.

The processes share this machine; the encoders are tiny, see `chaos_main`. A
single process uses the coordinator too, so that the order of sums over devices
does not depend on the number of processes.
"""

import argparse
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks import chaos_main, chaos_run, printing
from benchmarks.chaos_run import Place, Run
from mixer_jax.runtime import processes
from mixer_jax.runtime.errors import UserError

STATES = ("starting", "training", "saving")  # states in which a run is killed
# Maximum seconds from a run's start, or from its first step, to its kill.
_STARTING = 8.0
_TRAINING = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="folder with medium.csv and large.csv")
    add("--kills", type=int, default=50)
    add("--devices", default="4", help="total devices, comma-separated")
    add("--processes", default="1,2,4", help="comma-separated")
    add("--steps", type=int, default=60, help="per stage")
    add("--seed", type=int, default=0, help="seed of the random choices")
    add("--seeds", type=int, default=3, help="undisturbed runs to evaluate")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    chaos_main.register()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        figures = measure(given, folder)
    except UserError as error:
        print(
            f"error: {error}\nThe output of the runs is in {folder}.",
            file=sys.stderr,
        )
        return 2
    shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name:>34}  {value}")
    if given.json:
        printing.write(figures, given.json)
    return 0


def measure(given: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Trains both runs and returns the results of their comparison."""
    devices = [int(n) for n in given.devices.split(",")]
    counts = [int(n) for n in given.processes.split(",")]

    # Active rows are drawn per device, so they depend on the number of devices.
    more = ["head.active=1.0"] if len(devices) > 1 else []

    def run(name: str, seed: int = 0) -> Run:
        return Run(folder / name, given.data, given.steps, seed, more)

    whole, broken = run("whole"), run("broken")
    begin = time.monotonic()
    whole.finish(devices[0])
    undisturbed = time.monotonic() - begin
    begin = time.monotonic()
    killed = KilledRun(broken, whole, run("spare"), devices, counts, given.seed)
    killed.run(given.kills)
    one, other = whole.losses(), broken.losses()
    figures = {
        "kills": sum(killed.kills.values()),
        **killed.kills,
        "exit codes": dict(killed.codes),
        "steps": len(one),
        "seconds undisturbed": round(undisturbed),
        "seconds disturbed": round(time.monotonic() - begin),
        "restarts compared": len(killed.first),
        "largest difference of first loss": max(killed.first, default=0.0),
        "unfinished files left": len(broken.unfinished()),
        "every step logged once": [place for place, _ in broken.rows()]
        == [place for place, _ in whole.rows()],
    }
    if len(devices) == 1:
        figures["losses that differ"] = sum(
            one[place] != other.get(place) for place in one
        )
        return figures | chaos_run.compare(whole, broken)
    figures["measures"] = broken.measures()
    alone = [whole, *(run(f"seed{n}", n) for n in range(1, given.seeds))]
    for other_seed in alone[1:]:
        other_seed.finish(devices[0])
    figures["measures undisturbed"] = [each.measures() for each in alone]
    return figures


class KilledRun:
    """Starts and kills a run repeatedly, then lets it finish.

    Attributes:
      kills: number of kills per signal and state of the run.
      codes: number of processes per exit code.
      first: relative errors of the first losses after restarts.
    """

    def __init__(
        self,
        run: Run,
        whole: Run,
        spare: Run,
        devices: Sequence[int],
        counts: Sequence[int],
        seed: int,
    ):
        """Prepares to kill `run`; nothing is started.

        Args:
          run: the run to start and kill.
          whole: the finished undisturbed run.
          spare: a run for training single steps on the first of `devices`.
          devices: possible total numbers of devices.
          counts: possible numbers of processes.
          seed: the seed of all random choices.
        """
        self.kills, self.codes = Counter(), Counter()
        self.first: list[float] = []
        self._run, self._whole, self._spare = run, whole, spare
        self._devices, self._counts = devices, counts
        self._rng = random.Random(seed)

    def run(self, kills: int) -> None:
        """Kills the run `kills` times, then lets it finish.

        Raises:
          UserError: if the run fails without being killed.
        """
        while True:
            first, before = self._run.next(), self._run.losses()
            written, copy = self._run.written(), self._copy(first, before)
            kill = sum(self.kills.values()) < kills
            ended = self._start(kill)
            self.codes.update(map(str, ended))
            if processes.WRONG in ended or (any(ended) and not kill):
                raise self._run.fail("The run failed after a restart:")
            if self._run.written() > written:
                self._check(first, before, copy)
            if not any(ended):
                return
            number = sum(self.kills.values())
            print(f"{number} kills; next: {self._run.next()}", flush=True)

    def _start(self, kill: bool) -> list[int]:
        """Starts the run, kills it if `kill` is set, and returns exit codes."""
        devices = self._rng.choice(self._devices)
        count = self._rng.choice([n for n in self._counts if devices % n == 0])
        started = self._run.start(count, devices)
        with chaos_run.ending(started):
            state = self._rng.choice(STATES)
            if kill and (state := self._wait(started, state)):
                name = self._rng.choice(["SIGKILL", "SIGTERM"])
                victims = self._rng.choice(
                    [started, [self._rng.choice(started)]]
                )
                chaos_run.send(name, victims)
                self.kills[f"{name} while {state}"] += 1
            return chaos_run.wait(started)

    def _wait(self, started: list[subprocess.Popen], state: str) -> str:
        """Waits until a random moment in the given state.

        Returns:
          The state reached: "training" if no checkpoint write began in time,
          "" if the run ended earlier.
        """
        written, since = self._run.written(), time.monotonic()
        timing = state == "starting"
        moment = limit = _STARTING if timing else _TRAINING
        if state != "saving":
            moment = self._rng.uniform(0, limit)
        while not timing or time.monotonic() < since + moment:
            if any(process.poll() is not None for process in started):
                return ""
            if not timing and self._run.written() > written:
                timing, since = True, time.monotonic()
            if state == "saving" and timing and self._run.saving():
                return state
            time.sleep(0.005)
        return "training" if state == "saving" else state

    def _copy(self, first: Place, before: dict[Place, float]) -> Run | None:
        """Returns a copy of the run if its next loss is unknown, else None."""
        if len(self._devices) == 1 or first == Place(0, 1) or first in before:
            return None
        shutil.rmtree(self._spare.folder)
        shutil.copytree(self._run.folder, self._spare.folder)
        return self._spare

    def _check(
        self, first: Place, before: dict[Place, float], copy: Run | None
    ) -> None:
        """Compares the first loss after a restart with the expected one."""
        now = self._run.losses()
        if first not in now:
            return
        expected = before
        if len(self._devices) == 1 or first == Place(0, 1):
            expected = self._whole.losses()
        elif copy is not None:
            copy.finish(self._devices[0], until=first)
            expected = copy.losses()
        difference = abs(now[first] - expected[first])
        self.first.append(difference / abs(expected[first]))


if __name__ == "__main__":
    sys.exit(main())
