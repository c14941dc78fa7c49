"""Finds the categories of a click log and writes a sample table with them.

    python -m mixer_jax.categorize --log=runs/quickstart/log \
        --out=runs/quickstart --truth=runs/quickstart/data/medium.csv

Writes found.csv, unassigned.csv, categories.json (quality and chosen settings),
identities.json (changes to the IDs of --previous) and a cache. The test samples
of --truth become test rows of found.csv, never training rows. Several processes
can share the encoding of images and texts and the search for neighbors, as
with `mixer_jax.main`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from mixer_jax.categories import click_log, find
from mixer_jax.categories.quality import against_truth
from mixer_jax.categories.settings import add_flags, from_flags
from mixer_jax.data.images import checking
from mixer_jax.data.tables import found as found_table
from mixer_jax.models import features
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import numbers, parsing, processes, terminal
from mixer_jax.runtime.ownership import folder_lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.Parser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--log", required=True, help="click log: queries, items and clicks")
    add("--out", required=True, help="output folder; must contain the images")
    add("--truth", help="sample table of true categories, for evaluation")
    add("--image-encoder", default="efficientnet-lite0", help="frozen encoder")
    add("--text-encoder", default="minilm", help="frozen encoder")
    add("--size", type=numbers.whole(8, 4096), default=128, help="in pixels")
    share = {"type": numbers.share, "default": 0.01}
    add("--max-skipped", **share, help="maximum share of unreadable images")
    add("--previous", help="previous found.csv, whose category IDs are kept")
    add_flags(parser)
    return processes.run_command(_run, parser, arguments)


def _run(given: argparse.Namespace) -> None:
    found_table.check_out(given.out, given.truth)
    with folder_lock.hold(given.out, "--out", together=True):
        _categorize(given)


def _categorize(given: argparse.Namespace) -> None:
    settings, out = from_flags(given), given.out
    encoders = given.image_encoder, given.text_encoder, given.size
    features.check_encoders(*encoders[:2])
    inputs = given.log, out, given.truth, given.previous
    sources = found_table.read_sources(*inputs)
    if sources.previous.note and jax.process_index() == 0:
        terminal.say(sources.previous.note)
    kept, skipped = checking.check_images(
        sources.samples, out, given.max_skipped, together=True
    )
    log = click_log.keep(sources.log, set(kept["sample_id"]))
    cache = Path(out, found_table.FEATURES)
    shown = features.share_log_features(log, cache, *encoders)
    mesh = mesh_lib.make_mesh()
    if jax.process_index() != 0:
        find.help_searching(shown, log.clicks, settings, mesh)
        return
    found = find.find_categories(shown, log.clicks, settings, mesh)
    figures, changes = found_table.write(out, sources, kept, found)
    if skipped.count:
        terminal.say("\n  ".join([str(skipped), *skipped.examples]))
    terminal.say(against_truth.lines(figures), changes)


if __name__ == "__main__":
    sys.exit(main())
