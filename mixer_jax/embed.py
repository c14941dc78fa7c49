"""Embeds the queries and documents of a sample table.

    python -m mixer_jax.embed --workdir=runs/quickstart/stage3 \
        --table=mine.csv --out=mine

Several processes can share the work, like those of `mixer_jax.main`. The folder
--out holds Parquet files of IDs and embeddings (see docs/own_data.md); the
same command resumes an interrupted run. If --out ends in .npz, the output is a
single file with `query_ids`, `document_ids`, `query_embeddings` and
`document_embeddings`, which must fit into memory. Embeddings are float32 unit
rows in the table's order.
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from mixer_jax.data.tables import table
from mixer_jax.retrieval import embed, runs
from mixer_jax.retrieval.sharded import layout, writing
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import numbers, parsing, paths, processes, terminal
from mixer_jax.runtime.ownership import folder_lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.embed", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="workdir of a stage, or a bundle")
    add("--table", required=True, help="the sample table")
    add("--out", required=True, help="the folder or .npz file to write")
    batch = "samples per batch"
    add("--batch-size", type=numbers.batch_size, default=256, help=batch)
    add("--max-skipped", type=numbers.share, help=table.MAX_SKIPPED_HELP)
    rows = {"type": numbers.whole(1, 1 << 20), "default": writing.SHARD_ROWS}
    add("--shard-rows", **rows, help="rows per Parquet file of a folder")
    return processes.run_command(_run, parser, arguments)


def _run(given: argparse.Namespace) -> None:
    if embed.is_folder(given.out):
        layout.check(paths.make(given.out))
        with folder_lock.hold(given.out, "--out", together=True):
            _embed(given, writing.write, shard_rows=given.shard_rows)
    else:
        embed.check_path(given.out)
        with folder_lock.hold_file(given.out, "--out", together=True):
            _embed(given, embed.write)


def _embed(given: argparse.Namespace, write: embed.Write, **more: int) -> None:
    mesh = mesh_lib.make_mesh()
    written = write(
        runs.load(paths.make(given.workdir), mesh),
        given.table,
        given.out,
        mesh,
        batch_size=given.batch_size,
        max_skipped=given.max_skipped,
        **more,
    )
    if jax.process_index() == 0:
        if written.skipped.count:
            terminal.say(written.skipped.with_examples())
        terminal.say(f"Wrote {written} to {given.out}")


if __name__ == "__main__":
    sys.exit(main())
