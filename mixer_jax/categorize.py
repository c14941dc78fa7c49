"""Finds the categories of a click log and writes a sample table of them.

    python -m mixer_jax.categorize --log=runs/quickstart/log \
        --out=runs/quickstart --truth=runs/quickstart/data/medium.csv

Writes found.csv, unassigned.csv, categories.json (the quality figures) and
features.npz (a cache) into --out. Give --truth, a table of true categories, for
the figures only; its test samples are held out: found.csv has them as test rows
with their true categories, never as training rows.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mixer_jax.categories import encoding, find, log, quality, tables
from mixer_jax.data import images, table
from mixer_jax.errors import UserError
from mixer_jax.models import features


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    about = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser("mixer_jax.categorize", description=about)
    add = parser.add_argument
    add("--log", required=True, help="folder of queries, items and clicks")
    add("--out", required=True, help="folder to write to, above the images")
    add("--truth", help="sample table of true categories, for the figures")
    add("--image-encoder", default="efficientnet-lite0", help="frozen encoder")
    add("--text-encoder", default="minilm", help="frozen encoder")
    add("--size", type=int, default=128, help="pixels that images are read at")
    add("--max-skipped", type=float, default=0.01, help="unreadable images")
    given = parser.parse_args(arguments)
    out, text, size = Path(given.out), given.text_encoder, given.size
    try:
        clicks = log.read_folder(given.log)
        samples = tables.catalogue(clicks)
        inside = tables.relative_to(samples, out)
        kept, skipped = images.check_images(inside, out, given.max_skipped)
        clicks = log.keep(clicks, set(kept["sample_id"]))
        truth = table.read_table(given.truth) if given.truth else None
        if truth is not None:
            kept = tables.with_truth(kept, truth)
        shown = encoding.encode(
            clicks,
            out / "features.npz",
            f"{given.image_encoder} {size} {text}",
            lambda p: features.image_features(given.image_encoder, p, size),
            lambda t: features.text_features(text, t, length=32),
        )
        found = find.find_categories(shown, clicks.clicks, find.Settings())
        rows, unassigned = tables.found_rows(kept, found.combined)
        if truth is None or truth["split"].str.contains("/").any():
            rows = table.with_both_directions(rows)
        if truth is not None:
            test = table.select(truth, "test")
            rows = pd.concat([rows, tables.moved(test, given.truth, out)])
        table.write_table(rows, out / "found.csv")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unassigned.to_csv(out / "unassigned.csv", index=False)
    figures = quality.report(
        found, (kept["role"] == "query").to_numpy(), kept.get("truth")
    )
    (out / "categories.json").write_text(json.dumps(figures, indent=2) + "\n")
    if skipped.count:
        print(skipped, *skipped.examples, sep="\n  ")
    print(quality.lines(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
