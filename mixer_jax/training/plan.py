"""What a run would do, said without doing it."""

import math
import os

import jax
import rich.console
import rich.table
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.errors import UserError
from mixer_jax.training import curriculum, inputs, setup
from mixer_jax.training import workdir as workdir_lib


def show(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mesh: Mesh,
    console: rich.console.Console | None = None,
) -> None:
    """Checks config and data, and prints the plan of every stage.

    A table that is missing and has a source is built; nothing is trained.

    Args:
      config: of one stage or of a curriculum.
      workdir: of the run.
      mesh: of the run.
      console: default standard output, at least 100 columns.

    Raises:
      UserError: for whatever would stop the run before its first step.
    """
    console = console or rich.console.Console()
    if not console.is_terminal:
        # Paths are cut in narrow tables, and a file has no width.
        console.width = max(console.width, 160)
    in_curriculum = "curriculum" in config
    for stage, folder in curriculum.stages(config, workdir):
        start = stage.init_from or "random or pretrained weights"
        try:
            setup.check_start(stage, folder)
        except UserError as error:
            if not in_curriculum:
                start = str(error)
        _show_stage(setup.make(stage, folder, mesh), folder, start, console)


def _show_stage(
    run: setup.Setup,
    workdir: os.PathLike,
    start: str,
    console: rich.console.Console,
) -> None:
    config, state = run.config, run.state
    done = workdir_lib.latest_step(workdir)
    counts = inputs.describe(run.inputs)
    steps_an_epoch = max(counts["queries"], counts["documents"]) / (
        config.batch_size / 2
    )
    facts = {
        "workdir": f"{workdir} (at step {done or 0} of {config.steps})",
        "starts from": start,
        "table": f"{config.data.table}, split {config.data.split}",
        "samples": (
            f"{counts['queries']} queries, {counts['documents']} documents, "
            f"{counts['categories']} categories; {counts['skipped']} skipped"
        ),
        "steps": (
            f"{config.steps} of {config.batch_size} samples, "
            f"{config.steps / steps_an_epoch:.1f} epochs"
        ),
        "devices": f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}",
        "precision": config.precision,
        "head": f"{config.head.name}, {config.head.margin}",
    }
    for name, value in facts.items():
        console.print(f"{name:>12}  {value}", highlight=False, markup=False)
    table = rich.table.Table(title=f"{config.name}: parameters")
    table.add_column("path", overflow="fold")
    table.add_column("shape")
    table.add_column("trainable")
    table.add_column("rate", justify="right")
    table.add_column("layout")
    for path, leaf in setup.parameters(state.params).items():
        rate = run.rates[path]
        table.add_row(
            path,
            str(leaf.shape),
            "yes" if rate else "no",
            f"x {rate:g}",
            str(leaf.sharding.spec),
        )
    for name, leaf in _rows(state):
        table.add_row(
            name, str(leaf.shape), "yes", "own", str(leaf.sharding.spec)
        )
    console.print(table)
    sizes = {
        path: math.prod(leaf.shape)
        for path, leaf in setup.parameters(state.params).items()
    }
    trained = sum(n for path, n in sizes.items() if run.rates[path])
    console.print(
        f"{sum(sizes.values()):,} parameters, {trained:,} of them trainable, "
        f"and {math.prod(state.proxies.shape):,} in the proxies.",
        highlight=False,
    )


def _rows(state: setup.TrainState) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    fields = {
        "proxies": state.proxies,
        "proxy_state": state.proxy_state,
        "graph": state.graph,
    }
    return [
        (name, leaf)
        for name, tree in fields.items()
        for leaf in jax.tree.leaves(tree)
    ]
