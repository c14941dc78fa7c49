"""Writes a report as a single, self-contained HTML page.

    python -m mixer_jax.report --workdir=runs/quickstart
    python -m mixer_jax.report --categories=runs/quickstart \
        --truth=runs/quickstart/data/medium.csv
    python -m mixer_jax.report --experiments=runs/experiments

For a run, the page shows the contents of its folder: metrics, examples found by
the last stage's model, training curves, monitors and the quality of the
categories. For the output of categorize, it shows the quality of the categories
and the worst ones.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.data.tables import table
from mixer_jax.reports import categories, experiments, run
from mixer_jax.runtime import command, numbers, parsing, terminal
from mixer_jax.runtime import mesh as mesh_lib


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.report", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    add = parser.add_argument
    source.add_argument("--workdir", help="the run's folder")
    source.add_argument("--categories", help="the output folder of categorize")
    source.add_argument("--experiments", help="the --out of experiments")
    add("--table", default="", help="the evaluated table, if moved")
    add("--training-table", default="", help="the training table, if moved")
    add("--log", default="", help="the click log read by categorize")
    add("--truth", default="", help="the true categories, as in categorize")
    add("--out", default="", help="the page (default: report/index.html)")
    add("--max-skipped", type=numbers.share, help=table.MAX_SKIPPED_HELP)
    given = parser.parse_args(arguments)
    if not given.categories and (given.log or given.truth):
        parser.error("--log and --truth require --categories.")
    if not given.workdir and (given.table or given.training_table):
        parser.error("--table and --training-table require --workdir.")
    return command.run(lambda: _report(given))


def _report(given: argparse.Namespace) -> None:
    if given.workdir:
        path = run.build(
            given.workdir,
            mesh_lib.make_mesh(),
            given.out,
            table=given.table,
            training_table=given.training_table,
            max_skipped=given.max_skipped,
            say=terminal.say,
        )
    elif given.categories:
        path = categories.build(
            given.categories, given.log, given.truth, given.out
        )
    else:
        path = experiments.build(given.experiments, given.out, terminal.say)
    terminal.say(f"Wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
