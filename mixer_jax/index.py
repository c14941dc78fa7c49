"""Builds a search index from the documents of a sample table.

    python -m mixer_jax.index --workdir=runs/quickstart/stage3 \
        --table=runs/quickstart/data/medium.csv --out=runs/quickstart/index

The workdir is that of a stage, or of a curriculum, whose last stage is used. An
existing index is replaced. Search the index with `python -m mixer_jax.serve`.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.data.tables import table
from mixer_jax.retrieval import folders, index
from mixer_jax.runtime import command, numbers, parsing, terminal
from mixer_jax.runtime import mesh as mesh_lib


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.index", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="workdir of a run, or a bundle")
    add("--table", required=True, help="the sample table")
    add("--out", required=True, help="the folder to write")
    add("--split", default="", help="split to index (default: all)")
    batch = "documents per batch"
    add("--batch-size", type=numbers.batch_size, default=256, help=batch)
    add("--max-skipped", type=numbers.share, help=table.MAX_SKIPPED_HELP)
    given = parser.parse_args(arguments)
    return command.run(lambda: _index(given))


def _index(given: argparse.Namespace) -> None:
    with folders.owned(given.out, index.KIND):
        built, skipped = index.build(
            given.workdir,
            given.table,
            mesh_lib.make_mesh(),
            given.split,
            given.batch_size,
            given.max_skipped,
        )
        index.save(built, given.out)
    if skipped.count:
        terminal.say("\n  ".join([str(skipped), *skipped.examples]))
    count, dim = built.embeddings.shape
    terminal.say(
        f"Wrote an index of {count} documents (vectors with {dim} elements) to "
        f"{given.out}"
    )


if __name__ == "__main__":
    sys.exit(main())
