"""Times our input pipeline against bare decoding and PyTorch's loader.

    python -m benchmarks.input_pipeline --stored=400,1000 --size=224 \
        --workers=2 --rounds=5 --json=input_pipeline.json

Bare decoding reads, decodes and resizes the same files in as many threads and
does nothing else: it is the upper limit and the baseline of `ratio`. Rounds
alternate between all contenders, so that other load on the machine affects all
alike; each round starts from scratch and is timed after startup. Rates are
those of the median round, and ratios are the medians of the ratios of all
rounds. Our pipeline with augmentation does more work than the others and is
included to show its cost. PyTorch's loader is excluded if torch is not
installed.
"""

import argparse
import operator
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import rich.box
import rich.console
import rich.table

from benchmarks import input_sides, machine, partial_fc_torch, printing
from benchmarks.input_sides import Problem
from mixer_jax.data.images import augment
from mixer_jax.runtime.errors import UserError

_COUNTS = ("size", "images", "rows", "batch", "batches", "workers", "rounds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = _parser().parse_args(arguments)
    try:
        problems = _check(given)
        rows = [
            row
            for problem in problems
            for row in measure(problem, given.augment, given.rounds)
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    printing.show(table(rows), rows, 120, given.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.input_pipeline",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--stored", default="400,1000", help="sides of the stored images")
    add("--format", default="jpeg", help=" or ".join(input_sides.FORMATS))
    add("--size", type=int, default=224, help="side of the decoded images")
    add("--images", type=int, default=128, help="number of stored images")
    add("--rows", type=int, default=2048, help="rows of the sample table")
    add("--batch", type=int, default=32, help="samples, half of them queries")
    add("--batches", type=int, default=40, help="batches per round")
    add("--workers", type=int, default=2, help="threads or processes")
    add("--rounds", type=int, default=5, help="rounds per pipeline")
    add("--augment", default="strong", help="augmentation of our extra run")
    printing.add_json(parser)
    return parser


def _check(given: argparse.Namespace) -> list[Problem]:
    """Checks the command line; returns the problems to measure."""
    for name in _COUNTS:
        if (value := getattr(given, name)) < 1:
            raise UserError(f"--{name} is {value}; it must be 1 or more.")
    for name in ("images", "rows", "batch"):
        if (value := getattr(given, name)) % 2:
            raise UserError(
                f"--{name} is {value}; it must be even, for equal numbers of "
                "queries and documents."
            )
    if given.format not in input_sides.FORMATS:
        raise UserError(
            f"--format is '{given.format}'; it must be one of "
            f"{', '.join(input_sides.FORMATS)}."
        )
    augment.change(given.augment, ())
    problems = []
    for side in dict.fromkeys(given.stored.split(",")):
        if not side.isdecimal() or int(side) < 1:
            raise UserError(
                f"--stored={given.stored} has '{side}'; it must be numbers "
                "of pixels, separated by commas."
            )
        problems.append(
            Problem(
                int(side),
                given.size,
                given.format,
                given.images,
                given.rows,
                given.batch,
                given.workers,
                given.batches,
            )
        )
    return problems


def measure(
    problem: Problem, strength: str, rounds: int
) -> list[dict[str, Any]]:
    """Measures all contenders on images of one size; returns table rows.

    Args:
      problem: settings of all contenders.
      strength: the augmentation strength of our additional run.
      rounds: the number of rounds per contender.
    """
    torch = partial_fc_torch.available()
    with tempfile.TemporaryDirectory() as folder:
        data = input_sides.Data(problem, pathlib.Path(folder))
        sides = input_sides.contenders(data, torch, strength)
        times = {side: [] for side in sides}
        sides[input_sides.BARE, input_sides.FILES]()  # warms the page cache
        for _ in range(rounds):
            for side, run in sides.items():
                times[side].append(run())
    read = problem.batch * problem.batches
    rates = {
        side: read / statistics.median(seconds)
        for side, seconds in times.items()
    }
    bare = times[input_sides.BARE, input_sides.FILES]
    ratios = {
        side: statistics.median(map(operator.truediv, bare, seconds))
        for side, seconds in times.items()
    }
    described = machine.describe(jax.devices()[:1])
    return [
        {
            "pipeline": pipeline,
            "source": source,
            "size": problem.stored,
            "workers": problem.workers,
            "images_per_s": rate,
            "ratio_to_bare": ratios[pipeline, source],
            "format": problem.format,
            "decoded_size": problem.size,
            "batch": problem.batch,
            "images": read,
            "rounds": rounds,
            "slowest_per_s": read / max(times[pipeline, source]),
            "fastest_per_s": read / min(times[pipeline, source]),
            **described,
        }
        for (pipeline, source), rate in rates.items()
    ]


def table(rows: list[dict[str, Any]]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(
        title=(
            f"{rows[0]['format']} to {rows[0]['decoded_size']} pixels, "
            f"{rows[0]['workers']} workers"
        ),
        box=rich.box.SIMPLE,
    )
    for heading in ("pipeline", "source"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("stored pixels", "images/s", "range", "ratio"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row["pipeline"],
            row["source"],
            str(row["size"]),
            f"{row['images_per_s']:,.1f}",
            f"{row['slowest_per_s']:,.1f}-{row['fastest_per_s']:,.1f}",
            f"{row['ratio_to_bare']:.2f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
