"""Checks a sample table of any size and summarizes its contents.

    python -m mixer_jax.data.check --table=mydata/table.csv [--images]

The table is read batch by batch, so memory grows by only a few bytes per row.
All broken rules are listed; if there are any, the exit code is 2.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.data.tables import roots, validation
from mixer_jax.runtime import command, numbers, parsing, terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.data.check", __doc__)
    add = parser.add_argument
    add("--table", required=True, help="the sample table")
    add("--images", action="store_true", help="check the image files too")
    add("--image-roots", default="", help=roots.HELP)
    add(
        "--max-skipped",
        type=numbers.share,
        default=0.01,
        help="maximum share of missing images (default: %(default)s)",
    )
    add(
        "--threads",
        type=numbers.whole(1, 4096),
        help="threads that check images (default: 4 per core)",
    )
    given = parser.parse_args(arguments)
    return command.run(lambda: _check(given))


def _check(given: argparse.Namespace) -> None:
    report = validation.check(
        given.table,
        images=given.images,
        image_roots=given.image_roots,
        max_skipped=given.max_skipped,
        threads=given.threads,
        console=terminal.Console(stderr=True),
    )
    terminal.say(
        f"{given.table}: {report.samples:,} samples of "
        f"{report.categories:,} categories; all rows are valid"
    )
    terminal.Console().print(report.console_table())
    terminal.say(*report.notes())


if __name__ == "__main__":
    sys.exit(main())
