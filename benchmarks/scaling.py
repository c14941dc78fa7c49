"""Predicts how a training step scales with devices, from its program.

    python -m benchmarks.scaling --config=configs/stage2.py \
        [--devices=1,2,4,8] [--topologies=v5e:2x2,v5e:4x4,...] \
        [--categories=1000000] [--batch=1024] [--json=scaling.json]

Compiles the step for 1, 2, 4 and 8 devices of this machine's CPU, and with the
TPU compiler for pods of 4 to 256 chips; nothing is run. *Strong* scaling is the
same step on more devices. In *weak* scaling, batch and categories grow with the
devices; the given sizes are for the fewest devices of the series.

Efficiency is predicted only from the rooflines of TPU programs, relative to the
fewest chips of a series; see `add_efficiency`. CPU programs show only the
number of collectives and the bytes transferred, not times.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import rich.console
import rich.table
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import printing
from mixer_jax.compiled import abstract_pod, program_costs
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import abstract_step, setup
from mixer_jax.training.config import defaults as configs

Row = dict[str, Any]

TOPOLOGIES = "v5e:2x2,v5e:2x4,v5e:4x4,v5e:4x8,v5e:8x8,v5e:8x16,v5e:16x16"
SERIES = ("strong", "weak")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--config", required=True, help="one stage, FILE or FILE:ARGUMENT")
    add("--devices", default="1,2,4,8", help="CPU devices, comma-separated")
    add("--topologies", default=TOPOLOGIES, help='comma-separated; "" for none')
    add("--categories", type=int, default=1_000_000)
    add("--batch", type=int, default=1024)
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    try:
        rows = measure(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _show(rows)
    return 0


def measure(given: argparse.Namespace) -> list[Row]:
    """Compiles every step; returns a row for each program."""
    config = load_config(given.config)
    counts = [int(count) for count in given.devices.split(",") if count]
    # These settings apply only before JAX initializes its backends; after that,
    # use the existing devices.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max([1, *counts]))
    pods = [
        (name, abstract_pod.make_mesh(name))
        for name in given.topologies.split(",")
        if name
    ]
    fakes = [
        (f"cpu:{count}", meshes.make_mesh(jax.devices()[:count]))
        for count in counts
    ]
    rows = []
    for kind, places in (("cpu", fakes), ("tpu", pods)):
        for series in SERIES:
            first = places[0][1].size if places else 1
            for name, mesh in places:
                grown = mesh.size // first if series == "weak" else 1
                row = _compile(
                    config,
                    given.categories * grown,
                    given.batch * grown,
                    name,
                    mesh,
                )
                rows.append({"series": series, "kind": kind, **row})
                add_efficiency(rows)
                if given.json:  # save each row: compilation takes minutes
                    printing.write(rows, given.json)
                print(f"{series}, {name}: compiled", file=sys.stderr)
    return rows


def load_config(path: str) -> ConfigDict:
    """Returns the config from `FILE` or `FILE:ARGUMENT`.

    Raises:
      UserError: if there is no such file, or it has several stages.
    """
    file, _, argument = path.partition(":")
    if not pathlib.Path(file).is_file():
        raise UserError(f"The config file {file} does not exist.")
    spec = importlib.util.spec_from_file_location("config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(argument)
    if "curriculum" in config:
        raise UserError(
            f"{path} has several stages; use the config of one stage."
        )
    return config


def _compile(
    config: ConfigDict, categories: int, batch: int, name: str, mesh: Mesh
) -> Row:
    """Compiles one step; returns its figures per device."""
    config = config.copy_and_resolve_references()
    config.batch_size = batch
    configs.check_values(config, mesh.size)
    common = {
        "place": name,
        "devices": mesh.size,
        "categories": categories,
        "batch": batch,
    }
    if not name.startswith("cpu"):
        row = abstract_pod.compile_stage(config, categories, mesh, name)[0]
        row = dataclasses.asdict(row)
        keys = (
            "total",
            "capacity",
            "flops",
            "bytes",
            "collectives",
            "collective_bytes",
            "compute_ms",
            "memory_ms",
            "collective_ms",
            "roofline_ms",
        )
        return common | {key: row[key] for key in keys}
    run = setup.assemble(config, categories, mesh)
    compiled = abstract_step.compile_step(run)
    costs = program_costs.count(compiled.as_text(), mesh.size)
    return common | {
        "collectives": {k: c._asdict() for k, c in costs.collectives.items()},
        "collective_bytes": sum(c.bytes for c in costs.collectives.values()),
    }


def add_efficiency(rows: list[Row]) -> None:
    """Adds `efficiency` to the rows of pods, relative to the first of a series.

    Strong scaling: `t_1 n_1 / (t n)`; weak scaling: `t_1 / t`; with roofline
    times t and n chips.
    """
    first = {}
    for row in rows:
        if row["kind"] != "tpu":
            continue
        start = first.setdefault(row["series"], row)
        row["efficiency"] = start["roofline_ms"] / row["roofline_ms"]
        if row["series"] == "strong":
            row["efficiency"] *= start["devices"] / row["devices"]


def _show(rows: list[Row]) -> None:
    console = rich.console.Console()
    console.width = max(console.width, 120)
    for kind, series in dict.fromkeys((r["kind"], r["series"]) for r in rows):
        table = rich.table.Table(title=f"{series} scaling, {kind}; per device")
        names = ["devices", "categories", "batch", "collectives", "sent MB"]
        if kind == "tpu":
            names += ["HBM GB", "GFLOP", "roofline ms", "efficiency"]
        for name in names:
            table.add_column(name, justify="right")
        for row in rows:
            if (row["kind"], row["series"]) != (kind, series):
                continue
            collectives = ", ".join(
                f"{one['number']} {name}"
                for name, one in sorted(row["collectives"].items())
            )
            cells = [
                str(row["devices"]),
                f"{row['categories']:,}",
                f"{row['batch']:,}",
                collectives or "-",
                f"{row['collective_bytes'] / 1e6:.2f}",
            ]
            if kind == "tpu":
                cells += [
                    f"{row['total'] / 1e9:.2f} of {row['capacity'] / 1e9:.0f}",
                    f"{row['flops'] / 1e9:,.1f}",
                    f"{row['roofline_ms']:.3f}",
                    f"{row['efficiency']:.0%}",
                ]
            table.add_row(*cells)
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
