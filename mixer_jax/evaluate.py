"""Measures trained models on the categories they were not trained on.

    python -m mixer_jax.evaluate --workdir=runs/quickstart [--baselines] \
        [--stages=stage1,stage3] [--models="image only=runs/image_only,..."]

The workdir is a curriculum's or a stage's. Rows are added to its
`metrics.json`, in place of rows of the same model, stage, split and gallery.
"""

import argparse
import sys
from collections.abc import Sequence

import rich

from mixer_jax import mesh as mesh_lib
from mixer_jax import paths
from mixer_jax.errors import UserError
from mixer_jax.reports import results
from mixer_jax.retrieval import evaluate, runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mixer_jax.evaluate", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--workdir", required=True, help="a curriculum's folder or a stage's")
    add("--stages", default="", help="comma-separated; default all there are")
    add("--models", default="", help="NAME=WORKDIR,... to measure as well")
    add("--table", default="", help="sample table; default the config's")
    add("--training-table", default="", help="of --baselines, if it was moved")
    add("--out", default="", help="default WORKDIR/metrics.json")
    add("--baselines", action="store_true", help="measure what needs no model")
    given = parser.parse_args(arguments)
    try:
        out = given.out or paths.make(given.workdir) / "metrics.json"
        stages = [name for name in given.stages.split(",") if name]
        rows = runs.measure_models(
            runs.find_models(given.workdir, stages, given.models),
            mesh_lib.make_mesh(),
            table=given.table,
            training_table=given.training_table,
            baselines=given.baselines,
            say=rich.print,
        )
        rows = evaluate.update(out, rows)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rich.print(*results.console_tables(rows))
    print(f"Wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
