"""Prepares a table's samples in advance, with several processes.

    python -m mixer_jax.data.prepare --table=mydata/table.csv --workers=8

`mixer_jax.main` finds the result if `data.table` is the same table and
`data.prepared` is --out. If interrupted, the same command goes on.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.data.images import memory
from mixer_jax.data.prepared import build, version
from mixer_jax.data.tables import table
from mixer_jax.runtime import command, numbers, parsing, terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.data.prepare", __doc__)
    add = parser.add_argument
    add("--table", required=True, help="the sample table")
    add(
        "--out",
        default="",
        help="folder for the files, as the config's data.prepared "
        f"(default: {build.FOLDER} next to the table)",
    )
    add("--split", default="train", help="the split (default: %(default)s)")
    add(
        "--shards",
        type=numbers.whole(1, 99_999),
        default=0,
        help="number of files (default: one per 8,192 samples, up to 512)",
    )
    add(
        "--workers",
        type=numbers.whole(0, 1024),
        default=0,
        help="number of processes (default: one, with a thread per core)",
    )
    add(
        "--max-pixels",
        type=numbers.whole(1, 2**63 - 1),
        default=memory.MAX_PIXELS,
        help="leave out larger images, as the config's data.max_pixels "
        "(default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    return command.run(lambda: _prepare(given))


def _prepare(given: argparse.Namespace) -> None:
    frame = table.select(table.read_table(given.table), given.split)
    root = table.folder(given.table)
    options = build.Options(given.max_pixels, given.shards, given.workers)
    made = build.prepare(frame, root, given.out, options=options)
    terminal.say(
        f"{len(frame) - len(made.skipped):,} samples are prepared in "
        f"{made.folder}."
    )
    if made.skipped:
        terminal.say(
            f"{len(made.skipped):,} samples were left out because their images "
            f"cannot be read; {made.folder / version.SKIPPED} lists them."
        )


if __name__ == "__main__":
    sys.exit(main())
