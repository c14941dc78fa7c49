"""Embeds the queries and documents of a sample table.

    python -m mixer_jax.embed --workdir=runs/quickstart/stage3 \
        --table=mine.csv --out=mine.npz

Several processes can share the work, like those of `mixer_jax.main`.

The `.npz` file holds `query_ids` and `document_ids` (strings), and
`query_embeddings` and `document_embeddings` (float32, unit rows), in the
table's order.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import jax

from mixer_jax.data.images import checking
from mixer_jax.data.tables import table
from mixer_jax.retrieval import embed, runs
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import numbers, parsing, paths, processes, terminal
from mixer_jax.runtime.ownership import folder_lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.embed", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="workdir of a stage, or a bundle")
    add("--table", required=True, help="the sample table")
    add("--out", required=True, help="the .npz file to write")
    batch = "samples per batch"
    add("--batch-size", type=numbers.batch_size, default=256, help=batch)
    add("--max-skipped", type=numbers.share, help=table.MAX_SKIPPED_HELP)
    return processes.run_command(_run, parser, arguments)


def _run(given: argparse.Namespace) -> None:
    embed.check_path(given.out)
    with folder_lock.hold_file(given.out, "--out", together=True):
        _embed(given)


def _embed(given: argparse.Namespace) -> None:
    path, mesh = pathlib.Path(given.table), mesh_lib.make_mesh()
    frame = table.read_table(path)
    trained = runs.load(paths.make(given.workdir), mesh)
    data = trained.config.data
    limit = given.max_skipped
    limit = data.max_skipped if limit is None else limit
    root = table.folder(path)
    frame, skipped = checking.check_images(
        frame, root, limit, max_pixels=data.max_pixels, together=True
    )
    result = embed.embed_table(trained, frame, root, mesh, given.batch_size)
    if jax.process_index() != 0:
        return
    embed.save(result, given.out)
    if skipped.count:
        terminal.say("\n  ".join([str(skipped), *skipped.examples]))
    terminal.say(
        f"Wrote {len(result.query_ids)} queries and {len(result.document_ids)} "
        f"documents (vectors with {result.query_embeddings.shape[1]} elements) "
        f"to {given.out}"
    )


if __name__ == "__main__":
    sys.exit(main())
