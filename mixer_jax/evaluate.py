"""Evaluates trained models on categories they were not trained on.

    python -m mixer_jax.evaluate --workdir=runs/quickstart [--baselines] \
        [--stage=stage3] [--model="image only=runs/image_only"]

The workdir is that of a curriculum or a stage. `--stage` and `--model` may be
repeated. Rows are added to the workdir's `metrics.json`, replacing rows of the
same model, stage, split and gallery. Several processes can share the work, like
those of `mixer_jax.main`, except for the baselines.
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from mixer_jax.data.tables import table
from mixer_jax.experiments import measure
from mixer_jax.reports import results
from mixer_jax.retrieval import rows_file, runs
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import numbers, parsing, paths, processes, terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.evaluate", __doc__)
    add = parser.add_argument
    add(
        "--workdir",
        required=True,
        help="workdir of a stage or curriculum, or a bundle",
    )
    repeated = {"action": "append", "default": []}
    stage = "stage to evaluate (default: all); repeatable"
    add("--stage", **repeated, help=stage)
    other = "another model, as NAME=WORKDIR; repeatable"
    add("--model", **repeated, help=other)
    add("--table", default="", help="sample table (default: the config's)")
    trained_on = "training table for --baselines, if moved"
    add("--training-table", default="", help=trained_on)
    add("--out", default="", help="default: WORKDIR/metrics.json")
    untrained = "also evaluate baselines that need no model"
    add("--baselines", action="store_true", help=untrained)
    add("--max-skipped", type=numbers.share, help=table.MAX_SKIPPED_HELP)
    return processes.run_command(_evaluate, parser, arguments)


def _evaluate(given: argparse.Namespace) -> None:
    out = given.out or paths.make(given.workdir) / "metrics.json"
    models = runs.find_models(given.workdir, given.stage, given.model)
    rows_file.check_out(out)
    measured = measure.measure_models(
        models,
        mesh_lib.make_mesh(),
        table=given.table,
        training_table=given.training_table,
        baselines=given.baselines,
        max_skipped=given.max_skipped,
        say=terminal.say if jax.process_index() == 0 else lambda text: None,
    )
    for rows in measured:  # saved one by one, in case a later model fails
        if jax.process_index() == 0:
            rows_file.update(out, rows)
    if jax.process_index() != 0:
        return
    terminal.Console().print(*results.console_tables(rows_file.merge(out, ())))
    terminal.say(f"Wrote {out}")


if __name__ == "__main__":
    sys.exit(main())
