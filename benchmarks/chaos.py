"""Kills a training run again and again, and compares what it comes to.

    python -m mixer_jax.demo.emoji --out=runs/chaos --limit=400
    python -m benchmarks.chaos --data=runs/chaos [--kills=50] [--devices=4] \
        [--processes=1,2,4] [--steps=60] [--seed=0] [--seeds=3] [--json=FILE]

One run of the quickstart's three stages is left alone. Another of the same
config gets SIGKILL or SIGTERM at random moments, in one or in all of its
processes, and is started again by the same command with another number of
processes and, where `--devices` names several, of devices. Then:

- With one number of devices, parameters, proxies and every loss on the way
  have to be the same, bit for bit.
- With several, and all proxies active, the first step after each restart has
  to have the loss that the first of them gives from the same checkpoint, and
  the measures at the end have to lie within those of `--seeds` runs that were
  left alone.
- Every step is logged once, and nothing unfinished is left in the folder.

The processes share this machine; the encoders are tiny, see `chaos_main`. One
process is coordinated too: then sums over devices are formed in one order,
whoever has the devices.
"""

import argparse
import json
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

from benchmarks import chaos_main, chaos_run
from benchmarks.chaos_run import Place, Run
from mixer_jax.runtime import processes
from mixer_jax.runtime.errors import UserError

STATES = ("starting", "training", "saving")  # that a run is killed in
# Seconds, at most, until a run is killed: after its start, or its first step.
_STARTING = 8.0
_TRAINING = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="folder of medium.csv and large.csv")
    add("--kills", type=int, default=50)
    add("--devices", default="4", help="in all, comma-separated")
    add("--processes", default="1,2,4", help="comma-separated")
    add("--steps", type=int, default=60, help="of each stage")
    add("--seed", type=int, default=0, help="of what is killed, and when")
    add("--seeds", type=int, default=3, help="undisturbed runs to measure")
    add("--json", default="", help="file to write the figures to")
    given = parser.parse_args(arguments)
    chaos_main.register()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        figures = measure(given, folder)
    except UserError as error:
        print(
            f"error: {error}\nAll that was made is in {folder}.",
            file=sys.stderr,
        )
        return 2
    shutil.rmtree(folder)
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

    # Which rows are active is drawn on each device, for its own rows.
    more = ["head.active=1.0"] if len(devices) > 1 else []

    def run(name: str, seed: int = 0) -> Run:
        return Run(folder / name, given.data, given.steps, seed, more)

    whole, broken = run("whole"), run("broken")
    begin = time.monotonic()
    whole.finish(devices[0])
    undisturbed = time.monotonic() - begin
    begin = time.monotonic()
    torment = Torment(broken, whole, run("spare"), devices, counts, given.seed)
    torment.run(given.kills)
    one, other = whole.losses(), broken.losses()
    figures = {
        "kills": sum(torment.kills.values()),
        **torment.kills,
        "exit codes": dict(torment.codes),
        "steps": len(one),
        "seconds undisturbed": round(undisturbed),
        "seconds disturbed": round(time.monotonic() - begin),
        "restarts compared": len(torment.first),
        "largest difference of first loss": max(torment.first, default=0.0),
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


class Torment:
    """Starts a run, kills it, and so on, until all kills are spent.

    Attributes:
      kills: what was sent, and in which state of the run.
      codes: exit codes of all processes, and how often.
      first: relative differences of the losses of first steps after restarts.
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
        """Will torment `run`, whose like `whole` was left alone.

        Args:
          run: is started and killed.
          whole: has trained undisturbed.
          spare: trains single steps on the first of `devices`.
          devices: how many there may be, in all.
          counts: how many processes there may be.
          seed: of all that is by chance.
        """
        self.kills, self.codes = Counter(), Counter()
        self.first: list[float] = []
        self._run, self._whole, self._spare = run, whole, spare
        self._devices, self._counts = devices, counts
        self._rng = random.Random(seed)

    def run(self, kills: int) -> None:
        """Kills so often, then lets the run end.

        Raises:
          UserError: if it fails where nobody killed it.
        """
        while True:
            first, before = self._run.next(), self._run.losses()
            written, copy = self._run.written(), self._copy(first, before)
            kill = sum(self.kills.values()) < kills
            ended = self._start(kill)
            self.codes.update(map(str, ended))
            if processes.WRONG in ended or (any(ended) and not kill):
                raise self._run.fail("It failed when it was started again:")
            if self._run.written() > written:
                self._check(first, before, copy)
            if not any(ended):
                return
            number = sum(self.kills.values())
            print(f"{number} kills; next: {self._run.next()}", flush=True)

    def _start(self, kill: bool) -> list[int]:
        """Starts the run, kills it if asked to; returns the exit codes."""
        devices = self._rng.choice(self._devices)
        count = self._rng.choice([n for n in self._counts if devices % n == 0])
        begun = self._run.start(count, devices)
        with chaos_run.ending(begun):
            state = self._rng.choice(STATES)
            if kill and (state := self._wait(begun, state)):
                name = self._rng.choice(["SIGKILL", "SIGTERM"])
                victims = self._rng.choice([begun, [self._rng.choice(begun)]])
                chaos_run.send(name, victims)
                self.kills[f"{name} while {state}"] += 1
            return chaos_run.wait(begun)

    def _wait(self, begun: list[subprocess.Popen], state: str) -> str:
        """Waits for a moment of that state; "" if the run ended before.

        Returns:
          The state that it is in: "training" where no save was seen in time.
        """
        written, since = self._run.written(), time.monotonic()
        going_on = state == "starting"
        moment = longest = _STARTING if going_on else _TRAINING
        if state != "saving":
            moment = self._rng.uniform(0, longest)
        while not going_on or time.monotonic() < since + moment:
            if any(process.poll() is not None for process in begun):
                return ""
            if not going_on and self._run.written() > written:
                going_on, since = True, time.monotonic()
            if state == "saving" and going_on and self._run.saving():
                return state
            time.sleep(0.005)
        return "training" if state == "saving" else state

    def _copy(self, first: Place, before: dict[Place, float]) -> Run | None:
        """Keeps the run as it is, where its next loss is not known yet."""
        if len(self._devices) == 1 or first == Place(0, 1) or first in before:
            return None
        shutil.rmtree(self._spare.folder)
        shutil.copytree(self._run.folder, self._spare.folder)
        return self._spare

    def _check(
        self, first: Place, before: dict[Place, float], copy: Run | None
    ) -> None:
        """Compares the first loss after a restart with what it has to be."""
        now = self._run.losses()
        if first not in now:
            return
        wanted = before
        if len(self._devices) == 1 or first == Place(0, 1):
            wanted = self._whole.losses()
        elif copy is not None:
            copy.finish(self._devices[0], until=first)
            wanted = copy.losses()
        difference = abs(now[first] - wanted[first])
        self.first.append(difference / abs(wanted[first]))


if __name__ == "__main__":
    sys.exit(main())
