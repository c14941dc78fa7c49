"""Measures the host memory needed for large numbers of proxies.

    python -m benchmarks.category_scale --categories=1000000 --json=scale.json

Each category has a query and a document with synthetic embeddings. A first
process draws random proxies, imprints them from all samples, takes 20 steps and
saves; others restore the run on a different number of devices, start a new run
from it with 1% of the categories removed and 1% added, and export the proxies.

`share` is the size of the proxies, their optimizer state and the class graph.
On a CPU, these arrays are in the host's memory; `beyond` is the process's peak
anonymous memory minus `share`; it includes the interpreter, imported modules
and compiled programs. Each figure is measured once.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import rich.box
import rich.table

from benchmarks import category_run, machine, printing
from mixer_jax.runtime.errors import UserError

Row = dict[str, Any]

# Phases that share a process, and whether they use the second device count.
_PROCESSES = (
    (("initialize", "imprint", "train", "save"), False),
    (("restore",), True),
    (("grow",), True),
    (("export",), True),
)
_HEADS = ("exact", "sampled", "knn", "topk")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = _parser().parse_args(arguments)
    try:
        devices = _check(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=given.folder or None) as folder:
        rows = measure(given, devices, folder)
    printing.show(table(rows), rows, 100, given.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.category_scale",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--categories", type=int, default=100_000, help="number of categories")
    add("--dim", type=int, default=64, help="size of the proxies")
    add("--head", default="sampled", choices=_HEADS, help="the head")
    add("--neighbors", type=int, default=32, help="knn: K of the class graph")
    add("--optimizer", default="sgd", help="the row optimizer")
    add("--devices", default="2,3", help="devices before and after the save")
    add(
        "--grow",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start a new run with changed categories",
    )
    add("--folder", default="", help="parent of the temporary folder")
    printing.add_json(parser)
    return parser


def _check(given: argparse.Namespace) -> list[int]:
    """Returns the numbers of devices.

    Raises:
      UserError: if an argument is invalid.
    """
    if given.categories < 1000 or given.categories % 100:
        raise UserError(
            f"--categories={given.categories} must be a multiple of 100, and "
            "1000 or more."
        )
    for name in ("dim", "neighbors"):
        if getattr(given, name) < 1:
            raise UserError(
                f"--{name}={getattr(given, name)} must be 1 or more."
            )
    devices = [int(x) if x.isdecimal() else 0 for x in given.devices.split(",")]
    if len(devices) != 2 or min(devices) < 1:
        raise UserError(
            f"--devices={given.devices} must be two numbers, such as 2,3."
        )
    return devices


def measure(
    given: argparse.Namespace, devices: Sequence[int], folder: str
) -> list[Row]:
    """Measures all phases of a run; returns one row per phase."""
    category_run.write(pathlib.Path(folder), given.categories)
    about = {
        "categories": given.categories,
        "dim": given.dim,
        "head": given.head,
        "neighbors": given.neighbors,
        "optimizer": given.optimizer,
    }
    rows = []
    for phases, other in _PROCESSES:
        if phases == ("grow",) and not given.grow:
            continue
        job = category_run.Job(folder=folder, phases=phases, **about)
        for row in _run(job, devices[other]):
            rows.append(about | row | machine.describe(jax.devices()[:1]))
            print(
                f"{row['phase']}: {row['seconds']:.1f} s, "
                f"{row['beyond_mb']:,.0f} MB beyond {row['share_mb']:,.0f} MB",
                file=sys.stderr,
            )
    return rows


def _run(job: category_run.Job, devices: int) -> list[Row]:
    """Measures phases in a new process; see `category_run`."""
    command = [sys.executable, "-m", "benchmarks.category_run"]
    command.append(json.dumps(dataclasses.asdict(job)))
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    first = rows[0]
    shown = rich.table.Table(
        title=(
            f"{first['categories']:,} categories, D = {first['dim']}, head "
            f"{first['head']}, row optimizer {first['optimizer']}"
        ),
        box=rich.box.SIMPLE,
    )
    shown.add_column("phase")
    columns = {
        "devices": ("devices", ""),
        "seconds": ("s", ",.1f"),
        "share_mb": ("share, MB", ",.0f"),
        "peak_mb": ("peak, MB", ",.0f"),
        "beyond_mb": ("beyond, MB", ",.0f"),
    }
    for heading, _ in columns.values():
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = (f"{row[key]:{how}}" for key, (_, how) in columns.items())
        shown.add_row(row["phase"], *figures)
    return shown


if __name__ == "__main__":
    sys.exit(main())
