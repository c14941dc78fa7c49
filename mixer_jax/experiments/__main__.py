"""Compares methods on frozen features: the evidence behind the claims.

    python -m mixer_jax.experiments --suite=main --out=runs/experiments \
        --data=emoji=runs/quickstart/data/medium.csv

--data is NAME=FOLDER_OR_TABLE[,NAME=...]: a sample table, or a folder with one
table per fold. Every method has the same number of trials, which are compared
on the split `val`, and of final runs, which alone see the split `test`.
OUT/results.jsonl gets one line per run. The same command continues an
interrupted suite, and python -m mixer_jax.report --experiments=OUT writes a
page.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.experiments import folds, results_log, run, suites
from mixer_jax.experiments.methods import Budget
from mixer_jax.models.factory import choose
from mixer_jax.runtime import command, numbers, parsing, paths, terminal
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.ownership import folder_lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.experiments", __doc__)
    add, whole = parser.add_argument, numbers.whole
    add("--suite", required=True, help=", ".join(suites.SUITES))
    add("--data", required=True, help="NAME=FOLDER_OR_TABLE[,NAME=...]")
    add("--out", required=True, help="folder of the results")
    add("--methods", default="", help="only methods whose names contain this")
    add("--trials", type=whole(1), default=6, help="trials per method")
    add("--seeds", type=whole(1), default=3, help="final runs per method")
    add("--steps", type=whole(1), default=300, help="training steps per run")
    pairs = "pairs of a query and a document per batch"
    add("--batch-size", type=numbers.batch_size, default=128, help=pairs)
    add("--image-size", type=whole(1, 1024), default=112, help="in pixels")
    add("--text-length", type=whole(1, 512), default=16, help="in tokens")
    skipped = "maximum share of samples with unreadable images to leave out"
    add("--max-skipped", type=numbers.share, default=0.01, help=skipped)
    given = parser.parse_args(arguments)
    return command.run(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    methods = choose(suites.SUITES, given.suite, "suite")()
    chosen = [m for m in methods if given.methods in m.name]
    if not chosen:
        choose({m.name: m for m in methods}, given.methods, "method")
    data = folds.parse(given.data)
    out = paths.local(given.out, "The folder of the results")
    paths.check_file(out / results_log.NAME, "The file of results")
    with folder_lock.hold(out, "--out"):
        plan = run.Plan(
            given.suite,
            chosen,
            folds.read(data, given.max_skipped),
            Budget(given.trials, given.seeds, given.steps, given.batch_size),
            given.image_size,
            given.text_length,
        )
        run.run(plan, out, mesh_lib.make_mesh(), terminal.say)
    terminal.say(f"Wrote {out / results_log.NAME}")


if __name__ == "__main__":
    sys.exit(main())
