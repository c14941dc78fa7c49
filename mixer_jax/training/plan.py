"""The plan of a run, printed without training."""

import os
import time

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.runtime import paths, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import (
    abstract_step,
    curriculum,
    inputs,
    parameter_table,
    setup,
)
from mixer_jax.training import start as start_lib
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.config import defaults as config_lib


def show(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mesh: Mesh,
    console: terminal.Console | None = None,
    categories: int | None = None,
) -> None:
    """Checks config and data, and prints the plan of every stage.

    A missing table that has a source is built, and the training step is
    compiled; nothing is trained.

    Args:
      config: the config of one stage or of a curriculum.
      workdir: the run's workdir.
      mesh: the device mesh.
      console: the output; standard output by default. It is widened to 160
        columns if it is not a terminal.
      categories: the number of categories; if given, no data is read.

    Raises:
      UserError: for anything that would stop the run before its first step.
    """
    console = console or terminal.Console()
    if not console.is_terminal:
        # A file has no terminal width, and a narrow table would truncate paths.
        console.width = max(console.width, 160)
    paths.check(paths.make(workdir))
    in_curriculum = "curriculum" in config
    curriculum.check_values(config, workdir, mesh)
    for stage, folder in curriculum.stages(config, workdir):
        start = start_lib.describe(stage, folder)
        prefix = curriculum.prefix(config, stage)
        try:
            start_lib.check(stage, folder, prefix)
        except UserError as error:
            if not in_curriculum:
                start = str(error)
        if categories is None:
            run = setup.make(stage, folder, mesh, prefix, prepare=False)
        else:
            config_lib.check_values(stage, mesh.size, prefix)
            with config_lib.naming_stage(stage, prefix):
                run = setup.assemble(stage, categories, mesh)
        _show_stage(run, folder, start, console)


def _show_stage(
    run: setup.Setup,
    workdir: os.PathLike,
    start: str,
    console: terminal.Console,
) -> None:
    config = run.config
    done = workdir_lib.latest_step(workdir)
    facts = {
        "workdir": f"{workdir} (at step {done or 0} of {config.steps})",
        "starts from": start,
        **_data_facts(run),
        "devices": f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}",
        "precision": config.precision,
        "head": f"{config.head.name}, {config.head.margin}",
    }
    for name, value in facts.items():
        terminal.say(f"{name:>12}  {value}", console=console)
    console.print(parameter_table.make(run))
    terminal.say(f"{parameter_table.count(run)}.", console=console)
    _show_memory(run, console)


def _data_facts(run: setup.Setup) -> dict[str, str]:
    config = run.config
    steps = f"{config.steps}, each on {config.batch_size} samples"
    if run.inputs is None:
        return {"table": "not read", "steps": steps}
    counts = inputs.describe(run.inputs)
    samples_per_role = max(counts["queries"], counts["documents"])
    epochs = config.steps * config.batch_size / 2 / samples_per_role
    return {
        "table": f"{config.data.table}, split {config.data.split}",
        "samples": (
            f"{counts['queries']} queries, {counts['documents']} documents, "
            f"{counts['categories']} categories; {counts['skipped']} skipped"
        ),
        "steps": f"{steps}; {epochs:.1f} epochs",
    }


def _show_memory(run: setup.Setup, console: terminal.Console) -> None:
    """Compiles the step and prints its memory use per device."""
    begin = time.monotonic()
    memory = abstract_step.compile_step(run).memory_analysis()
    seconds = time.monotonic() - begin
    arguments, temporaries = (
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
    )
    beyond = memory.output_size_in_bytes - memory.alias_size_in_bytes
    limit = (run.mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    terminal.say(
        f"A step needs {(arguments + temporaries + beyond) / 1e9:.3f} GB per "
        f"device"
        + (f" (which has {limit / 1e9:.1f} GB)" if limit else "")
        + f": {arguments / 1e9:.3f} GB for state and batch, "
        f"{temporaries / 1e9:.3f} GB while it runs. Compiling it took "
        f"{seconds:.0f} s.",
        console=console,
    )
