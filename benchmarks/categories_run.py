"""Finds the categories of one catalog and log in a separate process.

Synthetic catalogs have category sizes that follow a power law, so that most
categories are small and a few are large. Features are distributed around the
center of their category; their variance decreases with the dimension, as with
trained encoders, and the two roles are offset from each other. The log is
simulated; look-alikes are samples close in the leading dimensions.
"""

import argparse
import itertools
import json
import sys
import time
from typing import Any

import jax
import numpy as np
import pandas as pd

from benchmarks import machine, memory
from mixer_jax.categories import click_log, find, tables
from mixer_jax.categories.evidence import graph
from mixer_jax.categories.quality import against_truth
from mixer_jax.categories.settings import from_flags
from mixer_jax.data.tables import table
from mixer_jax.demo import click_model
from mixer_jax.runtime.errors import UserError

LARGEST = 200  # maximum samples per category
_SKEW = 2.0  # exponent of the category sizes
_FALL = 0.5  # dimension i has standard deviation i ** -_FALL
_IMAGE_NOISE, _TEXT_NOISE = 0.7, 0.5  # relative to the spread of the centers
_APART = 1.0  # offset between the roles, relative to the same spread
_SEEN = 64  # dimensions that determine look-alikes

Catalog = tuple[graph.Features, pd.DataFrame, np.ndarray]


def synthetic(
    samples: int,
    clicks: int,
    wrong: float,
    widths: tuple[int, int],
    seed: int = 0,
) -> Catalog:
    """Makes a synthetic catalog and its log.

    Args:
      samples: total number of queries and items, about half of each.
      clicks: approximate number of clicks in the log.
      wrong: share of wrong clicks.
      widths: the widths of the image and text features.
      seed: the seed of all random draws.

    Returns:
      Features, clicks and the true categories `[samples]`, queries first.
    """
    rng = np.random.default_rng(seed)
    sizes = np.arange(2, LARGEST + 1)
    chance = sizes**-_SKEW
    # Draw more sizes than needed: each category has at least two samples.
    drawn = rng.choice(sizes, samples, p=chance / chance.sum())
    category = np.repeat(np.arange(samples), drawn)[:samples]
    # The first sample of a category is a query, the second an item; the role
    # of the others is random.
    place = np.arange(samples) - np.searchsorted(category, category)
    is_query = np.where(place < 2, place == 0, rng.random(samples) < 0.5)
    queries, items = category[is_query], category[~is_query]
    count = category[-1] + 1
    image = _centers(count, widths[0], rng)
    apart = _APART * _centers(1, widths[0], rng)
    features = graph.Features(
        _around(image, queries, _IMAGE_NOISE, rng),
        _around(image, items, _IMAGE_NOISE, rng) + apart,
        _around(_centers(count, widths[1], rng), items, _TEXT_NOISE, rng),
    )
    frame = click_model.simulate(
        queries,
        items,
        click_model.Simulation(seed=seed, clicks=clicks, wrong=wrong),
        features.query_image[:, :_SEEN],
        features.item_image[:, :_SEEN] - apart[:, :_SEEN],
    )
    return features, frame, np.concatenate([queries, items])


def _centers(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    spread = np.arange(1, width + 1, dtype=np.float32) ** -_FALL
    return rng.standard_normal((count, width), np.float32) * spread


def _around(
    centers: np.ndarray,
    chosen: np.ndarray,
    noise: float,
    rng: np.random.Generator,
) -> np.ndarray:
    rows = _centers(len(chosen), centers.shape[1], rng)
    rows *= noise
    rows += centers[chosen]
    return rows


def read_catalog(folder: str, features: str, truth: str) -> Catalog:
    """Reads a log, its features cached by `categorize`, and its true labels.

    Raises:
      UserError: if the features do not belong to the log.
    """
    read = click_log.read_folder(folder)
    with np.load(features) as file:
        image, text = file["image"], file["text"]
    queries, items = len(read.queries), len(read.items)
    if len(image) != queries + items or len(text) != items:
        raise UserError(
            f"{features} has features of {len(image)} images and {len(text)} "
            f"texts, but {folder} has {queries} queries and {items} items; run "
            "categorize on this log first."
        )
    known = tables.with_truth(tables.catalog(read), table.read_table(truth))
    return (
        graph.Features(image[:queries], image[queries:], text),
        read.clicks,
        known["truth"].to_numpy(),
    )


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Finds the categories; returns a table row for `categories.py`."""
    if job["log"]:
        features, clicks, truth = read_catalog(
            job["log"], job["features"], job["truth"]
        )
    else:
        features, clicks, truth = synthetic(
            job["samples"],
            round(job["clicks"] * job["samples"]),
            job["wrong"],
            (job["width"], job["text_width"]),
            job["seed"],
        )
    marks: list[tuple[str, float, float]] = []

    def phase(name: str) -> None:
        marks.append((name, time.perf_counter(), time.process_time()))

    def f1(labels: np.ndarray) -> float:
        known = truth != ""
        return against_truth.against_truth(labels[known], truth[known])[
            "bcubed_f1"
        ]

    settings = from_flags(argparse.Namespace(**job))
    memory.resident(peak=False)
    pairs, evidence = find.weigh_pairs(features, clicks, settings, phase=phase)
    groups = find.group(features, pairs, evidence, settings, phase=phase)
    phase("end")
    peak = memory.resident(peak=True)
    seconds, cpu = (
        {one[0]: two[i] - one[i] for one, two in itertools.pairwise(marks)}
        for i in (1, 2)
    )
    right = truth[: len(features.query_image)][clicks["query"]]
    right = right == truth[len(features.query_image) :][clicks["item"]]
    sweep = {}
    for threshold in job["sweep"]:
        other = from_flags(argparse.Namespace(**job | {"threshold": threshold}))
        again = find.group(features, pairs, evidence, other)
        sweep[f"{threshold:g}"] = f1(again.combined)
    return {
        "samples": features.samples,
        "categories": len(np.unique(truth)),
        "clicks": int(clicks["clicks"].sum()),
        "wrong": float(
            clicks["clicks"][~right].sum() / max(clicks["clicks"].sum(), 1)
        ),
        "pairs": len(pairs.first),
        "method": settings.method,
        "chosen": groups.chosen,
        "seconds": seconds | {"total": sum(seconds.values())},
        "cpu_seconds": cpu | {"total": sum(cpu.values())},
        "peak_gb": peak / 1e9,
        "f1": {
            name: f1(getattr(groups, name))
            for name in ("combined", "clicks_alone", "content_alone")
        },
        "sweep": sweep,
        **machine.describe(jax.devices()),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(run(json.loads(sys.argv[1]))))
    except UserError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
