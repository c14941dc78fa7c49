"""Measures time and memory of category discovery at several sizes.

    python -m benchmarks.categories --samples=50000,200000 --json=rows.json
    python -m benchmarks.categories --log=runs/quickstart/log \
        --features=runs/quickstart/features.npz \
        --truth=runs/quickstart/data/medium.csv --sweep=0.2,0.3,0.4,0.5

Samples are synthetic (`categories_run.py`): category sizes have a long tail,
features have the width of encoder outputs and a variance that decreases with
the dimension, and the log is simulated. With --log, a real catalog with cached
features is used instead. Each size runs in its own process. The table and the
JSON give the seconds of each phase, the peak resident memory including the
features, and B-cubed F1, for both signals, clicks alone and content alone; the
last column is the scaling exponent of time with the number of samples, relative
to the previous row. --sweep repeats the clustering at each threshold, for
comparison with the chosen threshold.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from benchmarks import printing
from mixer_jax.categories import settings
from mixer_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = _parser().parse_args(arguments)
    try:
        rows = measure(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = rich.console.Console()
    console.width = max(console.width, 160)  # even in a log file
    console.print(table(rows))
    for row in rows:
        for threshold, f1 in row["sweep"].items():
            print(
                f"{row['samples']} samples, threshold {threshold}: F1 {f1:.3f}"
            )
    versions = " ".join(f"{n} {v}" for n, v in rows[0]["versions"].items())
    print(f"{rows[0]['machine']}; {versions}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.categories",
        description=__doc__.split("\n")[0],
    )
    add = parser.add_argument
    add("--samples", default="50000", help="sizes, comma-separated")
    add("--clicks", type=float, default=5.0, help="clicks per sample")
    add("--wrong", type=float, default=0.05, help="share of wrong clicks")
    add("--width", type=int, default=1280, help="image feature dimensions")
    add("--text-width", type=int, default=384, help="text feature dimensions")
    add("--seed", type=int, default=0)
    add("--log", default="", help="folder of a real log, instead of --samples")
    add("--features", default="", help="features.npz written by categorize")
    add("--truth", default="", help="sample table with the true categories")
    add("--sweep", default="", help="thresholds to compare, comma-separated")
    printing.add_json(parser)
    settings.add_flags(parser)
    return parser


def measure(given: argparse.Namespace) -> list[Row]:
    """Runs the measurements of the command line; returns a row per size.

    Raises:
      UserError: if an argument is invalid.
    """
    job = vars(given) | {"sweep": _numbers(given.sweep, "--sweep")}
    settings.from_flags(given)
    sizes = _numbers(given.samples, "--samples")
    if given.log:
        for name in ("features", "truth"):
            if not getattr(given, name):
                raise UserError(f"--log also requires --{name}.")
        sizes = [0]
    elif not sizes or min(sizes) < 100:
        raise UserError(
            f"--samples is {given.samples}; each size must be 100 or more."
        )
    rows: list[Row] = []
    for size in sizes:
        row = _run(job | {"samples": int(size)})
        rows.append(row | {"growth": _power(row, rows[-1]) if rows else None})
        # Write after each size: large ones are slow and may exceed memory.
        if given.json:
            printing.write(rows, given.json)
    return rows


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise UserError(
            f"{flag} is '{text}'; it must be a comma-separated list of numbers."
        ) from error


def _power(row: Row, before: Row) -> float | None:
    """Returns the scaling exponent of time with samples, if defined."""
    times = row["samples"] / before["samples"]
    if times == 1:
        return None
    grew = row["seconds"]["total"] / before["seconds"]["total"]
    return math.log(grew) / math.log(times)


def _run(job: dict[str, Any]) -> Row:
    """Measures one size in its own process, to isolate its memory."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.categories_run", json.dumps(job)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 2:
        raise UserError(done.stderr.splitlines()[-1])
    if done.returncode:
        raise RuntimeError(
            f"Measuring {job['samples']} samples failed with exit code "
            f"{done.returncode}:\n{done.stderr[-4000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(box=rich.box.MARKDOWN)
    phases = list(rows[0]["seconds"])
    for name in (
        *("samples", "categories", "clicks"),
        *(f"{phase} s" for phase in phases),
        *("peak GB", "F1", "clicks alone", "content alone", "growth"),
    ):
        shown.add_column(name, justify="right")
    for row in rows:
        growth = row["growth"]
        shown.add_row(
            f"{row['samples']:,}",
            f"{row['categories']:,}",
            f"{row['clicks']:,}",
            *(f"{row['seconds'][phase]:.1f}" for phase in phases),
            f"{row['peak_gb']:.1f}",
            *(f"{f1:.3f}" for f1 in row["f1"].values()),
            "" if growth is None else f"n^{growth:.2f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
