"""Measures time and memory of one training step of every head.

    python -m benchmarks.heads --classes=100000 --dim=256 --batch=256 \
        --active=0.1,0.01 --heads=dense,exact,sampled,knn,topk --rounds=10 \
        --json=heads.json [--peers] [--graph] [--head.chunk=4096 ...]

One process times all heads in rounds: each round runs one step of every head in
turn, on the same arrays, so that other load on the machine affects all alike.
The table and the JSON give the median step and its quartiles; the peak memory
of a process that runs only this head (`memory.py`); useful operations and
minimum traffic per second (`contenders.py`) and their shares of the machine's
limits as measured in the same run (`ceilings.py`); and the speedup over
`dense`, the step without this project.

Heads with an active share (sampled, knn) have a row for each share; `topk` is
set by --head.active and --head.neighbors. The class graph is random, as a
step's cost does not depend on it; --graph times `build_graph`.
"""

import argparse
import dataclasses
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
from jax.sharding import Mesh

from benchmarks import arrays as arrays_lib
from benchmarks import (
    ceilings,
    contenders,
    machine,
    memory,
    partial_fc_torch,
    printing,
)
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError

WARM_UP = 2  # steps of each head before the first round
PAUSE = 0.02  # seconds before a step, to let the other library's threads sleep


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    # Leave memory to the processes that measure single heads (`memory.py`).
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Keep torch's idle threads from spinning during the next step and, if no
    # core is free, slowing down torch's step. Set this before importing torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given, more = _parser().parse_known_args(arguments)
    try:
        rows = measure(given, contenders.parse_overrides(more))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    printing.show(table(rows), rows, 110, given.json)
    limits = rows[0]["ceilings"]
    print(
        "Measured limits of the machine: "
        f"f32 {limits['f32_flops_per_s'] / 1e9:.0f} GFLOP/s, "
        f"bf16 {limits['bf16_flops_per_s'] / 1e9:.0f} GFLOP/s, "
        f"copy {limits['copy_bytes_per_s'] / 1e9:.1f} GB/s, "
        f"in place {limits['in_place_bytes_per_s'] / 1e9:.1f} GB/s"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heads",
        description=__doc__.split("\n")[0],
        epilog="Pass settings of the heads as --head.key=value.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--classes", type=int, default=20_000, help="C")
    add("--dim", type=int, default=256, help="D")
    add("--batch", type=int, default=256, help="B, in total")
    add("--active", default="0.1", help="shares in (0, 1], comma-separated")
    add("--heads", default=",".join(contenders.HEADS), help="comma-separated")
    add("--rounds", type=int, default=10, help="steps per head")
    printing.add_json(parser)
    add("--peers", action="store_true", help="also time PartialFC in PyTorch")
    add("--graph", action="store_true", help="also time knn's build_graph")
    add("--graph-classes", type=int, default=20_000, help="C for --graph")
    return parser


def measure(
    given: argparse.Namespace, overrides: tuple[tuple[str, Any], ...]
) -> list[dict[str, Any]]:
    """Runs the measurements of the command line; returns the table's rows.

    Raises:
      UserError: if an argument is invalid.
    """
    names, shares = _check(given)
    problem = contenders.Problem(
        given.classes, given.dim, given.batch, overrides
    )
    mesh = meshes.make_mesh()
    if given.batch % mesh.size:
        raise UserError(
            f"--batch is {given.batch}; it is split over {mesh.size} devices, "
            f"so it must be a multiple of {mesh.size}."
        )
    field = [
        contenders.make_contender(problem, mesh, name, share)
        for name in names
        for share in (shares if name in contenders.SHARED else (1.0,))
    ]
    if given.peers and partial_fc_torch.available():
        field += [
            partial_fc_torch.make_contender(problem, share) for share in shares
        ]
    elif given.peers:
        print("torch is not installed; skipping PartialFC in PyTorch.")
    graph = {}
    if given.graph:
        graph = _time_graph(problem, mesh, given.graph_classes)
    memories = {}
    for one in field:
        memories[one] = memory.measure(problem, one.head, one.active)
        if memories[one] is None:
            print(f"{one.head} at {one.active:g} does not fit in memory.")
    limits = ceilings.measure(mesh)
    times = _time(
        problem, mesh, [one for one in field if memories[one]], given.rounds
    )
    # Measure twice, in case other load slowed down the first measurement.
    again = ceilings.measure(mesh)
    limits = {name: max(limits[name], again[name]) for name in limits}
    common = {"ceilings": limits, **machine.describe(list(mesh.devices.flat))}
    return [
        _row(
            problem,
            one,
            mesh,
            times.get(one),
            next((times.get(o) for o in field if o.head == "dense"), None),
            memories[one],
            limits,
        )
        | {"rounds": given.rounds, "settings": dict(overrides)}
        | (graph if one.head == "knn" else {})
        | common
        for one in field
    ]


def _check(given: argparse.Namespace) -> tuple[list[str], list[float]]:
    """Checks the command line; returns its heads and active shares."""
    names = [name for name in given.heads.split(",") if name]
    unknown = [name for name in names if name not in contenders.HEADS]
    if unknown or not names:
        raise UserError(
            f"Unknown name in --heads: '{','.join(unknown)}'; known: "
            f"{', '.join(contenders.HEADS)}."
        )
    shares = []
    for text in given.active.split(","):
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise UserError(f"--active has '{text}'; it must be in (0, 1].")
        shares.append(share)
    for name, minimum in dict(
        classes=2, dim=1, batch=1, rounds=1, graph_classes=2
    ).items():
        if (value := getattr(given, name)) < minimum:
            raise UserError(
                f"--{name.replace('_', '-')} is {value}; it must be "
                f"{minimum} or more."
            )
    if given.graph and "knn" not in names:
        raise UserError("--graph times knn's class graph; add knn to --heads.")
    return list(dict.fromkeys(names)), list(dict.fromkeys(shares))


def _time(
    problem: contenders.Problem,
    mesh: Mesh,
    field: list[contenders.Contender],
    rounds: int,
) -> dict[contenders.Contender, list[float]]:
    """Returns each contender's step times in ms, in alternating rounds."""
    k = contenders.neighbors(problem, mesh, tuple(o.head for o in field))
    arrays = arrays_lib.make_arrays(
        problem.classes, problem.dim, problem.batch, k, mesh
    )
    times = {one: [] for one in field}
    for index in range(-WARM_UP, rounds):
        key = jax.random.fold_in(jax.random.key(1), index + WARM_UP)
        for one in field:
            jax.block_until_ready(key)
            time.sleep(PAUSE)
            start = time.perf_counter()
            jax.block_until_ready(one.run(arrays, key))
            # The loss may be ready before the updated arrays.
            jax.block_until_ready((arrays.proxies, arrays.momentum))
            if index >= 0:
                times[one].append(1e3 * (time.perf_counter() - start))
    return times


def _time_graph(
    problem: contenders.Problem, mesh: Mesh, classes: int
) -> dict[str, float]:
    """Returns the median time of three calls of knn's `build_graph`."""
    problem = dataclasses.replace(problem, classes=classes)
    head = contenders.make_head(problem, mesh, "knn", 1.0)
    arrays = arrays_lib.make_arrays(
        classes, problem.dim, problem.batch, 0, mesh
    )
    seconds = []
    for _ in range(1 + 3):
        start = time.perf_counter()
        jax.block_until_ready(head.build_graph(arrays.proxies))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    rate = 2 * classes**2 * problem.dim / median
    print(
        f"The class graph of {classes:,} classes, {head.graph_shape.shape[1]} "
        f"neighbors each: {median:.2f} s, {rate / 1e9:.0f} GFLOP/s"
    )
    return {
        "graph_classes": classes,
        "graph_ms": 1e3 * median,
        "graph_flops_per_s": rate,
    }


def _row(problem, one, mesh, times, dense, peak, limits) -> dict[str, Any]:
    """Returns a row of the JSON; unmeasured figures are None."""
    row = {
        "head": one.head,
        "classes": problem.classes,
        "dim": problem.dim,
        "batch": problem.batch,
        "active": one.active,
        "devices": 1 if one.head == partial_fc_torch.NAME else mesh.size,
        "step_ms": None,
        "peak_mb": None,
        "flops_per_s": None,
        "bytes_per_s": None,
        "ratio_to_dense": None,
        "quartiles_ms": None,
        "rows": one.rows,
    }
    if not times:
        return row
    median = statistics.median(times)
    flops, traffic = (1e3 * x / median for x in (one.flops, one.traffic))
    quartiles = [median, median]
    if len(times) > 1:
        low, _, high = statistics.quantiles(times, method="inclusive")
        quartiles = [low, high]
    return row | {
        "step_ms": median,
        "peak_mb": peak["peak_mb"],
        "flops_per_s": flops,
        "bytes_per_s": traffic,
        "ratio_to_dense": statistics.median(dense) / median if dense else None,
        "quartiles_ms": quartiles,
        "runtime_mb": peak["runtime_mb"],
        "share_of_f32": flops / limits["f32_flops_per_s"],
        "share_of_bf16": flops / limits["bf16_flops_per_s"],
        "share_of_bytes": traffic / limits["bytes_per_s"],
    }


def table(rows: list[dict[str, Any]]) -> rich.table.Table:
    """Formats the rows as a table."""
    first = rows[0]
    shown = rich.table.Table(
        title=f"{first['classes']:,} classes, dim {first['dim']}, "
        f"batch {first['batch']}, {first['devices']} device(s)",
        box=rich.box.SIMPLE,
    )
    shown.add_column("head", no_wrap=True)
    for heading in (
        "active",
        "step ms",
        "quartiles",
        "peak MB",
        "GFLOP/s (f32)",
        "GB/s (best)",
        "x dense",
    ):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["head"], f"{row['active']:g}"]
        if row["step_ms"] is None:
            shown.add_row(*cells, "-", "", "out of memory")
            continue
        ratio = row["ratio_to_dense"]
        low, high = row["quartiles_ms"]
        shown.add_row(
            *cells,
            f"{row['step_ms']:.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{row['peak_mb']:,.0f}",
            f"{row['flops_per_s'] / 1e9:,.0f} ({row['share_of_f32']:.0%})",
            f"{row['bytes_per_s'] / 1e9:.2f} ({row['share_of_bytes']:.0%})",
            "-" if ratio is None else f"{ratio:.2f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
