"""Compares two models on the same held-out queries.

    python -m mixer_jax.compare --current=runs/old --workdir=runs/new \
        --table=mydata/found.csv --out=comparison.json [--tolerance=0.01]

The verdict is "worse" if the MAP of the new model (--workdir) is significantly
lower: if the 95% confidence interval of the difference lies below minus the
tolerance. The table needs a split test, as written by `categorize --hold-out`.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from mixer_jax.retrieval import compare
from mixer_jax.runtime import (
    command,
    files,
    numbers,
    parsing,
    results,
    terminal,
)
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.ownership import folder_lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.compare", __doc__)
    add = parser.add_argument
    add("--current", required=True, help="workdir or bundle in use")
    add("--workdir", required=True, help="workdir or bundle of the new model")
    add("--table", required=True, help="sample table with a split test")
    add("--out", required=True, help="JSON file to write")
    tolerance = "tolerated decrease of the MAP (default: 0)"
    add("--tolerance", type=numbers.share, default=0.0, help=tolerance)
    given = parser.parse_args(arguments)
    return command.run(lambda: _compare(given))


def _compare(given: argparse.Namespace) -> None:
    files.check(given.out, "The comparison")
    with folder_lock.hold_file(given.out, "--out"):
        figures = compare.compare(
            given.current,
            given.workdir,
            given.table,
            mesh_lib.make_mesh(),
            tolerance=given.tolerance,
        )
        text = json.dumps(figures, indent=2) + "\n"
        results.deliver(given.out, files.text_writer(text), "The comparison")
    terminal.say(compare.lines(figures), f"Wrote {given.out}")


if __name__ == "__main__":
    sys.exit(main())
