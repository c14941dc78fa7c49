"""Times our encoders against their originals in PyTorch.

    python -m benchmarks.encoders --models=resnet50,vit-s,bert-base \
        --size=128 --batch=32 --rounds=5 --json=encoders.json

One process times both sides of each row, in rounds: a round runs one pass of
our encoder and one of the original (`encoder_sides.py`), so that other load on
the machine affects both alike. --size is the side of an image in pixels or the
tokens per text. The table and the JSON give images or tokens per second of the
median pass; the quartiles of the passes; our speedup; the share of the
machine's f32 matrix product rate that our encoder reaches (`ceilings.py`); and
the peak memory of a process that runs only this pass (`encoder_memory.py`).

Our encoder scales uint8 pixels itself; the original is given scaled pixels.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import rich.box
import rich.console
import rich.table

from benchmarks import (
    ceilings,
    encoder_memory,
    encoder_sides,
    machine,
    partial_fc_torch,
    printing,
)
from benchmarks.encoder_sides import PASSES, Problem
from mixer_jax.models.factory import choose
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError

WARM_UP = 2  # passes of each side before the first round
PAUSE = 0.02  # seconds before a pass, to let the other library's threads sleep
MIN_IMAGE_SIZE = 32  # pixels per side, one cell of a ResNet's last feature map


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    # Leave GPU memory to the other library.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Keep torch's idle threads from spinning during our passes. Set this
    # before importing torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = _parser().parse_args(arguments)
    try:
        problems = _check(given)
        limit = peak()
        rows = [
            row
            for problem in problems
            for row in measure(problem, given.rounds, limit)
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    printing.show(table(rows), rows, 140, given.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoders",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--models", default="resnet50,vit-s,bert-base", help="comma-separated")
    add("--size", type=int, default=128, help="image side or tokens per text")
    add("--batch", type=int, default=32, help="images or texts per batch")
    add("--rounds", type=int, default=5, help="passes per side")
    printing.add_json(parser)
    return parser


def _check(given: argparse.Namespace) -> list[Problem]:
    """Checks the command line; returns the problems to measure."""
    if not partial_fc_torch.available():
        raise UserError("The originals require torch; run `pip install torch`.")
    for name in ("size", "batch", "rounds"):
        if (value := getattr(given, name)) < 1:
            raise UserError(f"--{name} is {value}; it must be 1 or more.")
    problems = []
    for name in dict.fromkeys(given.models.split(",")):
        choose(encoder_sides.MODELS, name, "encoder with an original")
        problem = Problem(name, given.batch, given.size)
        if problem.is_text and given.size > problem.config.positions:
            raise UserError(
                f"--size is {given.size}; {name} reads at most "
                f"{problem.config.positions} tokens."
            )
        if not problem.is_text and given.size < MIN_IMAGE_SIZE:
            raise UserError(
                f"--size is {given.size}; it must be {MIN_IMAGE_SIZE} pixels "
                "or more."
            )
        problems.append(problem)
    return problems


def peak() -> float:
    """Measures FLOP/s of f32 matrix products on the first device."""
    with jax.default_matmul_precision("highest"):  # used by both sides
        one = meshes.make_mesh(jax.devices()[:1])
        return ceilings.measure(one)["f32_flops_per_s"]


def measure(
    problem: Problem, rounds: int, limit: float
) -> list[dict[str, Any]]:
    """Measures both passes of an encoder; returns the table's rows.

    Args:
      problem: the encoder and its input sizes.
      rounds: passes per side.
      limit: FLOP/s of the machine, from `peak`.
    """
    memories = {
        name: {
            side: encoder_memory.measure(problem, name, side)
            for side in encoder_memory.SIDES
        }
        for name in PASSES
    }
    peer, ours = encoder_sides.Peer(problem), encoder_sides.Ours(problem)
    ours.place(peer.tensors())
    sides = {encoder_memory.OURS: ours, encoder_memory.PEER: peer}
    rows = []
    for name in PASSES:
        ours.compile(name)
        times = _time(sides, name, rounds)
        row = _row(problem, name, times, memories[name], rounds)
        rate = ours.flops[name] / statistics.median(times["ours"])
        row |= {"gflop": ours.flops[name] / 1e9, "flop_share": rate / limit}
        rows.append(row)
    return rows


def _time(
    sides: dict[str, Any], name: str, rounds: int
) -> dict[str, list[float]]:
    """Returns the seconds of each side's passes, in alternating rounds."""
    times = {side: [] for side in sides}
    for index in range(-WARM_UP, rounds):
        for side, one in sides.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            one.run(name)
            if index >= 0:
                times[side].append(time.perf_counter() - start)
    return times


def _row(
    problem: Problem,
    name: str,
    times: dict[str, list[float]],
    peaks: dict[str, float],
    rounds: int,
) -> dict[str, Any]:
    rates = {
        side: problem.items / statistics.median(seconds)
        for side, seconds in times.items()
    }
    described = machine.describe(jax.devices()[:1])
    described["versions"]["transformers"] = _transformers_version()
    return {
        "model": problem.model,
        "pass": name,
        "batch": problem.batch,
        "size": problem.size,
        "ours_per_s": rates["ours"],
        "peer_per_s": rates["peer"],
        "ratio": rates["ours"] / rates["peer"],
        "peak_mb": peaks["ours"],
        "peer_peak_mb": peaks["peer"],
        "items": "tokens" if problem.is_text else "images",
        "ours_quartiles_ms": _quartiles(times["ours"]),
        "peer_quartiles_ms": _quartiles(times["peer"]),
        "rounds": rounds,
        **described,
    }


def _transformers_version() -> str:
    import transformers

    return transformers.__version__


def _quartiles(seconds: list[float]) -> list[float]:
    if len(seconds) == 1:
        return [1e3 * seconds[0]] * 2
    low, _, high = statistics.quantiles(seconds, method="inclusive")
    return [1e3 * low, 1e3 * high]


def table(rows: list[dict[str, Any]]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(
        title=f"Batch {rows[0]['batch']}, size {rows[0]['size']}",
        box=rich.box.SIMPLE,
    )
    for heading in ("model", "pass"):
        shown.add_column(heading, no_wrap=True)
    for side in ("ours", "original"):
        for heading in (f"{side} per s", "quartiles ms", "peak MB"):
            shown.add_column(heading, justify="right", no_wrap=True)
    for heading in ("ratio", "of peak"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["model"], row["pass"]]
        for side, peak in (("ours", "peak_mb"), ("peer", "peer_peak_mb")):
            low, high = row[f"{side}_quartiles_ms"]
            rate, peak = row[f"{side}_per_s"], row[peak]
            cells += [
                f"{rate:,.1f} {row['items']}",
                f"{low:.1f}-{high:.1f}",
                f"{peak:,.0f}",
            ]
        shown.add_row(*cells, f"{row['ratio']:.2f}", f"{row['flop_share']:.0%}")
    return shown


if __name__ == "__main__":
    sys.exit(main())
