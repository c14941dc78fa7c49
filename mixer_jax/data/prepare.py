"""Prepares a table's samples in advance, with several processes.

    python -m mixer_jax.data.prepare --table=mydata/table.csv --workers=8

`mixer_jax.main` finds the result if its config has the same table, split and
limits. To resume after an interruption, run the same command again. Several
hosts can share the work, as with `mixer_jax.main`; they need the same folder
--out. A table in a bucket, such as s3://BUCKET/shop.parquet, is first
copied to --out, with its images.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

# Worker processes import this module too, so keep its own imports few.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    from mixer_jax.data.images import memory
    from mixer_jax.data.prepared import build, opening
    from mixer_jax.data.tables import buckets, fetching, roots
    from mixer_jax.runtime import command, numbers, parsing

    parser = parsing.for_command("mixer_jax.data.prepare", __doc__)
    add = parser.add_argument
    add("--table", required=True, help="the sample table")
    out = (
        "folder for the files, like the config's data.prepared (default: "
        f"{build.FOLDER} next to the table)"
    )
    add("--out", default="", help=out)
    add("--split", default="train", help="the split (default: %(default)s)")
    add("--image-roots", default="", help=roots.HELP)
    per_second, rate = numbers.number(0.01, 10_000), fetching.RATE
    add("--fetch-rate", type=per_second, default=rate, help=fetching.HELP)
    files = "number of files (default: about one per 1,024 samples, up to 512)"
    add("--shards", type=numbers.whole(1, 99_999), default=0, help=files)
    decoding = "number of processes (default: one, with a thread per core)"
    add("--workers", type=numbers.whole(0, 1024), default=0, help=decoding)
    pixels = (
        "leave out larger images, like the config's data.max_pixels (default: "
        "%(default)s)"
    )
    whole, limit = numbers.whole(1, 2**63 - 1), memory.MAX_PIXELS
    add("--max-pixels", type=whole, default=limit, help=pixels)
    skipped = "maximum share of samples to leave out (default: %(default)s)"
    compact = "leave out superseded records, so that TFDS can read the files"
    add("--compact", action="store_true", help=compact)
    add("--max-skipped", type=numbers.share, default=0.01, help=skipped)
    parsing.add_processes(parser)
    given = parser.parse_args(arguments)
    if not parsing.may_have_peers(given):
        return command.run(
            lambda: _prepare(given, opening.open_table, buckets.copy_table)
        )
    # These import JAX, which takes as long as preparing a thousand images.
    from mixer_jax.data.prepared import together
    from mixer_jax.runtime import processes

    return processes.run_parsed(
        lambda given: _prepare(given, together.open_table, together.copy_table),
        given,
    )


def _prepare(
    given: argparse.Namespace, open_table: Callable, copy_table: Callable
) -> None:
    from mixer_jax.data.images import checking
    from mixer_jax.data.prepared import build, version
    from mixer_jax.data.tables import buckets, table
    from mixer_jax.runtime import terminal
    from mixer_jax.runtime.errors import UserError

    origin = ""
    if buckets.is_address(given.table):
        if not given.out:
            raise UserError(
                f"The table {given.table} is not on this machine; set "
                "--out=FOLDER to copy it and its images to a local folder."
            )
        given.table, origin = copy_table(given.table, given.out)
        given.out = ""  # next to the copy
    options = build.Options(
        *(given.max_pixels, given.shards, given.workers, given.image_roots),
        fetch_rate=given.fetch_rate,
        origin=origin,
        compact=given.compact,
    )
    opened = open_table(given.table, given.split, given.out, options=options)
    if opened is None:
        return  # Process 0 does the rest.
    made, skipped = opened.prepared, opened.unreadable
    listing = made.folder / version.SKIPPED
    if skipped.count and listing.exists():
        skipped = dataclasses.replace(skipped, listing=str(listing))
    remedy = checking.remedy(table.folder(given.table))
    skipped.require(given.max_skipped, remedy)
    made.remove_others()
    if skipped.count:
        terminal.say(f"{skipped}.")
    count = skipped.total - skipped.count
    terminal.say(f"{count:,} samples are prepared in {made.folder}.")
    if superseded := made.manifest["superseded"]:
        terminal.say(
            f"{superseded:,} records are superseded; TFDS can read the files "
            "after a run with --compact."
        )


if __name__ == "__main__":
    sys.exit(main())
