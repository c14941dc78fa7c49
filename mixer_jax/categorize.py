"""Finds the categories of a click log and writes a sample table with them.

    python -m mixer_jax.categorize --log=runs/quickstart/log \
        --out=runs/quickstart --truth=runs/quickstart/data/medium.csv

Writes found.csv, unassigned.csv, categories.json (quality and chosen settings),
identities.json (changes to the IDs of --previous) and a cache. The test samples
of --truth become test rows of found.csv, never training rows.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mixer_jax.categories import click_log, identities, tables
from mixer_jax.categories.find import find_categories
from mixer_jax.categories.quality import against_truth
from mixer_jax.categories.settings import add_flags, from_flags
from mixer_jax.data.images import decoding
from mixer_jax.data.tables import found as found_table
from mixer_jax.data.tables import table
from mixer_jax.models import factory, features
from mixer_jax.runtime import (
    command,
    files,
    numbers,
    parsing,
    results,
    terminal,
)
from mixer_jax.runtime.ownership import folder_lock, guards, replacing
from mixer_jax.runtime.tabular.tables import writer

_WRITTEN = ("found.csv", "unassigned.csv", "categories.json", "features.npz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.Parser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--log", required=True, help="folder of queries, items and clicks")
    add("--out", required=True, help="folder to write to, above the images")
    add("--truth", help="sample table of true categories, for the figures")
    add("--image-encoder", default="efficientnet-lite0", help="frozen encoder")
    add("--text-encoder", default="minilm", help="frozen encoder")
    add(
        "--size",
        type=numbers.whole(8, 4096),
        default=128,
        help="pixels that images are read at",
    )
    add("--max-skipped", type=numbers.share, default=0.01, help="of images")
    add("--previous", help="found.csv of the last log, whose IDs are kept")
    add_flags(parser)
    given = parser.parse_args(arguments)
    return command.run(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    names = (*_WRITTEN, identities.LEDGER)
    files.check_folder(given.out, "The categories", names)
    against_truth.check_out(given.out)
    replacing.check_inputs(
        [Path(given.out, name) for name in names], [("--truth", given.truth)]
    )
    with folder_lock.hold(given.out, "--out"):
        _categorize(given)


def _categorize(given: argparse.Namespace) -> None:
    out, text = Path(given.out), given.text_encoder
    chosen = from_flags(given)
    factory.check_frozen("image_encoder", given.image_encoder)
    factory.check_frozen("text_encoder", text)
    before = identities.read_previous(given.previous)
    if before.note:
        terminal.say(before.note)
    clicks = click_log.read_folder(given.log)
    truth = table.read_table(given.truth) if given.truth else None
    samples = tables.relative_to(tables.catalog(clicks), out)
    if truth is not None:
        samples = tables.with_truth(samples, truth)
    identities.check_log(before, samples["sample_id"])
    found_table.check(samples, truth, out)
    kept, skipped = decoding.check_images(samples, out, given.max_skipped)
    clicks = click_log.keep(clicks, set(kept["sample_id"]))
    shown = features.log_features(
        clicks, out / "features.npz", given.image_encoder, text, given.size
    )
    found = find_categories(shown, clicks.clicks, chosen)
    rows, left = tables.found_rows(kept, found.combined)
    rows, changes = identities.rename(rows, left, before)
    rows = found_table.with_test_rows(rows, truth, out)
    is_query = (kept["role"] == "query").to_numpy()
    figures = against_truth.report(found, is_query, kept.get("truth"))
    writers = {
        "found.csv": table.writer(rows, out / "found.csv"),
        "unassigned.csv": writer(left, out / "unassigned.csv"),
        "categories.json": against_truth.writer(figures),
        identities.LEDGER: changes.writer(),
    }
    with guards.locked(out):
        results.deliver_all(out, writers, "The categories")
    if skipped.count:
        terminal.say("\n  ".join([str(skipped), *skipped.examples]))
    terminal.say(against_truth.lines(figures), changes)


if __name__ == "__main__":
    sys.exit(main())
