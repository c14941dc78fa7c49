"""Measures the accuracy loss of cheaper heads on real data.

    python -m benchmarks.fidelity --workdir=runs/quickstart/stage3 \
        [--table=icons/icons.csv] --active=0.1 --seeds=3 --json=fidelity.json

Encodes a sample table once (the stage's own, or another one) with the encoders
of a trained stage, and trains new towers, fusion and proxies on these features
with each head in turn: `exact` and, with the same active share, `knn`,
`knn, stale` (whose graph is built from the imprinted proxies and never
rebuilt), `topk` and `sampled`. All heads have the same initialization and the
same batches for a given seed. The metrics are Identical@1 on held-out
categories, without and with the training categories' documents as distractors,
and the share of training samples whose nearest proxy is their category's.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import rich.console
import rich.table
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import contenders, printing
from mixer_jax.data.tables import table
from mixer_jax.experiments import fusions
from mixer_jax.retrieval import evaluate
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs
from mixer_jax.training.checkpoint import checkpoints

Row = dict[str, Any]

HEADS = {
    "exact": {"name": "exact"},
    "knn": {"name": "knn"},
    "knn, stale": {"name": "knn", "refresh": 2**31 - 1},
    "topk": {"name": "topk"},
    "sampled": {"name": "sampled"},
}
# Defaults, overridden by the command line.
SETTINGS = {"neighbors": 16, "refresh": 25, "scale": 32.0, "margin_size": 0.25}
MEASURES = ("identical_at_1", "with_distractors", "training_top_1", "mrr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity",
        description=__doc__.split("\n")[0],
        epilog="Pass settings of the heads as --head.key=value.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", required=True, help="workdir of a trained stage")
    add("--table", default="", help="sample table; default: the stage's own")
    add("--size", type=int, default=0, help="image side; default: the stage's")
    add("--dim", type=int, default=0, help="embedding; default: the stage's")
    add("--active", type=float, default=0.1, help="share of active proxies")
    add("--steps", type=int, default=600)
    add("--batch", type=int, default=128)
    add("--seeds", type=int, default=3)
    add("--heads", default="/".join(HEADS), help="heads, separated by /")
    add("--momentum", type=float, default=0.9, help="momentum of the proxies")
    add("--rate", type=float, default=0.5, help="learning rate of the proxies")
    add("--features", default="", help="folder to cache the features in")
    printing.add_json(parser)
    given, more = parser.parse_known_args(arguments)
    try:
        overrides = dict(contenders.parse_overrides(more))
        rows = measure(given, overrides, meshes.make_mesh())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _show(rows)
    if given.json:
        printing.write(rows, given.json)
    return 0


def measure(
    given: argparse.Namespace, overrides: Mapping[str, Any], mesh: Mesh
) -> list[Row]:
    """Trains every head with every seed; returns a row per training run."""
    names = given.heads.split("/")
    for name in names:
        if name not in HEADS:
            raise UserError(
                f"Unknown head '{name}'; known: {', '.join(HEADS)}."
            )
    trained = checkpoints.load_model(given.workdir, mesh)
    if given.table:
        trained.config.data.table = trained.config.evaluate.table = given.table
    if given.size:
        trained.config.data.image_size = given.size
    frame, training, root = _samples(trained)
    both = pd.concat([frame, training]).assign(
        place=np.arange(len(frame) + len(training))
    )
    frame, training = both[: len(frame)], both[len(frame) :]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.features or temporary
        print(f"Encoding {len(both):,} samples.", flush=True)
        encoded = fusions.encode(trained, both, folder, mesh)
        for seed in range(given.seeds):
            for name in names:
                config = _config(given, overrides, trained.config, name, seed)
                rng = np.random.default_rng(seed)
                (fitted,) = fusions.train(
                    config, encoded, training, rng, mesh, [seed]
                )
                measured = _measures(
                    fitted, frame, training, root, config, mesh
                )
                rows.append(
                    {
                        "head": name,
                        "seed": seed,
                        "active": 1.0 if name == "exact" else given.active,
                        "categories": len(fitted.category_ids),
                        "settings": dict(config.head),
                        **measured,
                    }
                )
                print(
                    f"seed {seed}, {name}: "
                    + ", ".join(f"{k} {v:.4f}" for k, v in measured.items()),
                    flush=True,
                )
    return rows


def _samples(
    trained: checkpoints.Trained,
) -> tuple[pd.DataFrame, pd.DataFrame, pathlib.Path]:
    """Returns evaluation and training samples, and the former's root folder."""
    path = evaluate.table_path(trained.config)
    frame, _ = evaluate.read(
        path, trained.config.evaluate, trained.config.data.max_skipped
    )
    data = trained.config.data
    training = table.select(table.read_table(data.table), data.split)
    training, _ = inputs.read_usable(training, data.table, data)
    return (
        fusions.with_paths(frame, path.parent),
        fusions.with_paths(training, table.folder(data.table)),
        path.parent,
    )


def _config(
    given: argparse.Namespace,
    overrides: Mapping[str, Any],
    trained: ConfigDict,
    name: str,
    seed: int,
) -> ConfigDict:
    """Returns the config of one training run."""
    config = fusions.make_config(trained, trained.model.fusion)
    config.seed = seed
    config.steps, config.batch_size = given.steps, given.batch
    config.model.dim = given.dim or config.model.dim
    config.head.active = given.active
    config.proxies.momentum = given.momentum
    config.proxies.learning_rate = given.rate
    config.head.update(SETTINGS)
    config.head.update(overrides)
    config.head.update(HEADS[name])
    return config


def _measures(
    fitted: fusions.Fitted,
    frame: pd.DataFrame,
    training: pd.DataFrame,
    root: pathlib.Path,
    config: ConfigDict,
    mesh: Mesh,
) -> dict[str, float]:
    galleries = {
        row["gallery"]: row
        for row in evaluate.evaluate(
            fitted.embed, frame, root, config.evaluate, mesh, ""
        )
        if row["split"] == config.evaluate.split
    }
    alone = galleries["test"]
    among = galleries.get("test+distractors", alone)
    return {
        "identical_at_1": alone["identical_at_1"],
        "with_distractors": among["identical_at_1"],
        "training_top_1": top_1(fitted, training),
        "mrr": alone["mrr"],
    }


def top_1(fitted: fusions.Fitted, training: pd.DataFrame) -> float:
    """Returns the share of samples whose nearest proxy is their category's."""
    count = len(fitted.category_ids)
    proxies = jnp.asarray(jax.device_get(fitted.proxies))[:count]
    proxies /= jnp.linalg.norm(proxies, axis=1, keepdims=True)
    nearest = jax.jit(lambda z: jnp.argmax(z @ proxies.T, 1))
    right = 0
    for _, frame in training.groupby("role"):
        labels = table.labels(frame, fitted.category_ids)
        embeddings = fitted.embed(frame)
        for start in range(0, len(labels), 1024):
            part = slice(start, start + 1024)
            predicted = np.asarray(nearest(embeddings[part]))
            right += int((predicted == labels[part]).sum())
    return right / len(training)


def _show(rows: list[Row]) -> None:
    console = rich.console.Console()
    console.width = max(console.width, 100)
    shown = rich.table.Table("head", "active", *MEASURES)
    for name in dict.fromkeys(row["head"] for row in rows):
        some = [row for row in rows if row["head"] == name]
        cells = []
        for measure in MEASURES:
            values = [row[measure] for row in some]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
        shown.add_row(name, f"{some[0]['active']:g}", *cells)
    console.print(shown)
    console.print(
        f"{rows[0]['categories']:,} categories; mean and standard deviation "
        f"over {len({row['seed'] for row in rows})} seeds"
    )


if __name__ == "__main__":
    sys.exit(main())
