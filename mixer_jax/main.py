"""Trains a stage or a curriculum of stages; resumes an interrupted run.

    python -m mixer_jax.main --config=configs/stage2.py:runlocal \
        --workdir=runs/local/stage2 [--config.any.key=value] [--dry-run]

The same command resumes from the last checkpoint, even if workdir and data were
moved: only their content is compared. `--dry-run` checks the config and the
data, compiles the step and prints the training plan; with `--categories=N` it
needs no data. Several processes can share a run. They find each other on TPU VM
pods, on GKE's TPU slices and under Slurm; elsewhere, start each one with
`--coordinator=HOST:PORT --processes=N --process=I`. SIGTERM or Ctrl-C saves a
checkpoint and exits with code 75.
"""

from absl import flags
from ml_collections import config_flags

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths
from mixer_jax.training import curriculum, plan
from mixer_jax.training.config import command_line

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The run's config, a file in configs/.",
    sys_argv=[""],  # defer reading to `run`, which reports errors
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for the run's checkpoints and logs, or gs://..."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry-run", False, "Check, compile and print the plan; do not train."
)
_CATEGORIES = flags.DEFINE_integer(
    "categories",
    None,
    "With --dry-run: number of categories; reads no data.",
    2,
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    """Runs the config in the workdir."""
    workdir = paths.make(_WORKDIR.value)
    mesh = mesh_lib.make_mesh()
    if _DRY_RUN.value:
        plan.show(_CONFIG.value, workdir, mesh, categories=_CATEGORIES.value)
    else:
        curriculum.run(_CONFIG.value, workdir, mesh)


if __name__ == "__main__":
    command_line.run(main, together=True)
