"""Compiles a run's training step for a TPU pod, without a TPU.

    python -m mixer_jax.compile_for_tpu --config=configs/stage2.py \
        --topology=v5e:16x16 [--categories=100000000] [--json=FILE] \
        [--config.any.key=value]

Prints the cost per chip of the training step and of building the class graph:
memory, FLOPs, bytes moved, collectives, and the lower bound on time that they
imply. Without `--categories`, the number of categories is taken from the
config's data.
"""

import dataclasses
import json
import pathlib

import jax
from absl import flags
from ml_collections import config_flags

from mixer_jax.compiled import abstract_pod
from mixer_jax.reports import programs
from mixer_jax.runtime import files, results, terminal
from mixer_jax.runtime.ownership import folder_lock
from mixer_jax.training import curriculum, inputs
from mixer_jax.training.config import command_line
from mixer_jax.training.config import defaults as config_lib

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The run's config, a file in configs/.",
    sys_argv=[""],  # defer reading to `run`, which reports errors
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Generation and shape of the pod, as in v5e:16x16."
)
_CATEGORIES = flags.DEFINE_integer(
    "categories", None, "Number of categories; by default, the data's.", 2
)
_JSON = flags.DEFINE_string("json", None, "JSON file to write the rows to.")
flags.mark_flags_as_required(["config", "topology"])


def main() -> None:
    """Compiles every stage of the config."""
    # The pod is abstract, so JAX needs no accelerator here.
    jax.config.update("jax_platforms", "cpu")
    if not _JSON.value:
        _compile()
        return
    file = pathlib.Path(_JSON.value)
    files.check(file, "The rows")
    with folder_lock.hold_file(file, "--json"):
        rows = [dataclasses.asdict(row) for row in _compile()]
        text = json.dumps(rows, indent=2) + "\n"
        results.deliver(file, files.text_writer(text), "The rows")
    terminal.say(f"Wrote {file}")


def _compile() -> list[abstract_pod.Row]:
    """Compiles and prints every stage; returns the rows."""
    topology = _TOPOLOGY.value
    mesh = abstract_pod.make_mesh(topology)
    rows = []
    for config, _ in curriculum.stages(_CONFIG.value, ""):
        config_lib.check_values(config, mesh.size)
        count = _CATEGORIES.value
        if count is None:
            count = inputs.load(config.data).samples.num_categories
        made = abstract_pod.compile_stage(config, count, mesh, topology)
        terminal.Console().print(programs.console_table(made))
        rows += made
    return rows


if __name__ == "__main__":
    command_line.run(main)
