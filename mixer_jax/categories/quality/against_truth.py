"""Metrics of found categories against true ones.

They follow Amigo et al., "A comparison of extrinsic clustering evaluation
metrics based on formal constraints" (2009). Each noise sample counts as a
cluster of its own.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import normalized_mutual_info_score

from mixer_jax.categories.clustering.methods import alone
from mixer_jax.categories.find import Found
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError


def against_truth(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compares found labels `[N]` (-1 is noise) with true categories `[N]`.

    Returns:
      purity: share of samples in the majority category of their cluster.
      bcubed_precision: for each sample, the share of its cluster (including
        itself) that belongs to its category; mean over all samples.
      bcubed_recall: likewise, the share of its category that is in its cluster.
      bcubed_f1: harmonic mean of bcubed_precision and bcubed_recall.
      nmi: normalized mutual information, arithmetic mean.
    """
    found = alone(labels)
    # A str array would drop trailing NUL characters.
    true, _ = pd.factorize(np.asarray(truth, object))
    frame = pd.DataFrame({"found": found, "true": true})
    frame["together"] = frame.groupby(["found", "true"]).transform("size")
    together = frame["together"].to_numpy()
    precision = float(np.mean(together / np.bincount(found)[found]))
    recall = float(np.mean(together / np.bincount(true)[true]))
    leading = frame.groupby("found")["together"].max()
    return {
        "purity": float(leading.sum() / len(found)),
        "bcubed_precision": precision,
        "bcubed_recall": recall,
        "bcubed_f1": 2 * precision * recall / (precision + recall),
        "nmi": float(normalized_mutual_info_score(true, found)),
    }


def shape(labels: np.ndarray, is_query: np.ndarray) -> dict[str, Any]:
    """Describes clusters without using true categories.

    Args:
      labels: `[N]` int, -1 is noise.
      is_query: `[N]` bool.

    Returns:
      categories, noise_share, both_roles (share of categories with queries and
      items), sizes (histogram: size -> number of categories), largest, and
      gini, the inequality of the sizes (0: all equal; near 1: a few categories
      have nearly all samples).
    """
    labels = np.asarray(labels)
    kept = labels >= 0
    sizes = np.bincount(labels[kept])
    queries = np.bincount(labels[kept & is_query], minlength=len(sizes))
    real = sizes > 0
    sizes, queries = sizes[real], queries[real]
    both = (queries > 0) & (queries < sizes)
    values, times = np.unique(sizes, return_counts=True)
    return {
        "categories": len(sizes),
        "noise_share": float(1.0 - kept.mean()),
        "both_roles": float(both.mean()) if len(sizes) else 0.0,
        "sizes": {str(v): int(t) for v, t in zip(values, times, strict=True)},
        "largest": int(sizes.max(initial=0)),
        "gini": gini(sizes),
    }


def report(
    found: Found, is_query: np.ndarray, truth: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns metrics of found categories and of the baselines.

    Args:
      found: labels `[N]` of the found categories and of each baseline.
      is_query: `[N]` bool.
      truth: `[N]` true categories, "" where unknown; None if all are unknown.

    Returns:
      samples, chosen (settings chosen from the data), curve (the curve they
      were chosen from), merges (by cause), rates (of clicks), before (`shape`
      of the initial clusters, before splitting and merging) and ways: name ->
      `shape` and, over the samples with a known truth, `against_truth`. If
      `truth` is given, there is another baseline, "every sample alone": its F1
      is far from 0 if true categories are small, so compare the others with it.
    """
    ways = {
        "combined": found.combined,
        "clicks alone": found.clicks_alone,
        "content alone": found.content_alone,
    }
    if truth is not None:
        ways["every sample alone"] = np.full(len(is_query), -1)
        known = np.asarray(truth) != ""
    figures = {}
    for name, labels in ways.items():
        measured = {}
        if truth is not None:
            measured = against_truth(labels[known], truth[known])
        figures[name] = {**measured, **shape(labels, is_query)}
    return {
        "samples": len(is_query),
        "chosen": found.chosen,
        "curve": found.curve,
        "merges": found.merges,
        "rates": dataclasses.asdict(found.rates),
        "before": shape(found.dense, is_query),
        "ways": figures,
    }


def check_out(folder: str | os.PathLike) -> None:
    """Checks that a folder's `categories.json` is not from an export.

    Raises:
      UserError: if it is; overwriting it would make the export unreadable.
    """
    path = pathlib.Path(folder, "categories.json")
    content = None
    with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
    if isinstance(content, list):
        raise UserError(
            f"{path} belongs to exported proxies and would be replaced; choose "
            "another folder with --out."
        )


def writer(figures: dict[str, Any]) -> files.Writer:
    """Returns a writer for `categories.json`, the result of `report`."""
    return files.text_writer(json.dumps(figures, indent=2) + "\n")


def lines(figures: dict[str, Any]) -> str:
    """Formats the result of `report` in a few lines for a terminal."""
    chosen = [f"{name} {value:g}" for name, value in figures["chosen"].items()]
    rows = [f"Chosen from the data: {', '.join(chosen)}"] if chosen else []
    for name, way in figures["ways"].items():
        line = (
            f"{name:18} {way['categories']:6} categories, "
            f"{way['noise_share']:6.1%} of samples without one"
        )
        if "bcubed_f1" in way:
            line += f", B-cubed F1 {way['bcubed_f1']:.3f}"
        rows.append(line)
    return "\n".join(rows)


def gini(sizes: np.ndarray) -> float:
    """Returns the Gini coefficient of counts; 0 for equal or no counts."""
    sizes = np.sort(np.asarray(sizes, np.float64))
    if not sizes.sum():
        return 0.0
    rank = np.arange(1, len(sizes) + 1)
    return float(
        2 * (rank * sizes).sum() / (len(sizes) * sizes.sum())
        - (len(sizes) + 1) / len(sizes)
    )
