"""A small shop: images, a click log, later clicks, and found categories."""

import pathlib
import shutil
from unittest import mock

import numpy as np
import pandas as pd
from PIL import Image

from mixer_jax import categorize
from mixer_jax.data.tables import table
from mixer_jax.demo import click_model, simulate

CATEGORIES = 60
QUERIES, ITEMS = 2, 2  # per category


def build(root: pathlib.Path, with_truth: bool = True) -> None:
    """Writes data/table.csv, log/ and the output of categorize into `root`."""
    rng = np.random.default_rng(0)
    (root / "data" / "images").mkdir(parents=True)
    rows = []
    for category in range(CATEGORIES):
        pixels = rng.integers(60, 196, size=(8, 8, 3))
        split = "test" if category % 4 == 0 else "train"
        for number in range(QUERIES + ITEMS):
            query = number < QUERIES
            name = f"{'q' if query else 'd'}{category}-{number}"
            image = f"images/{name}.png"
            noisy = pixels + rng.integers(-50, 50, size=pixels.shape)
            Image.fromarray(noisy.astype(np.uint8)).save(root / "data" / image)
            text = "" if query else f"thing {category}"
            role = table.QUERY if query else table.DOCUMENT
            rows.append((name, role, image, text, f"c{category}", "", split))
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    truth = root / "data" / "table.csv"
    table.write_table(table.with_both_directions(frame), truth)
    (root / "data" / "ATTRIBUTION.md").write_text("Painted by nobody, CC0.\n")
    for seed, name in enumerate(("log", "later")):
        settings = click_model.Simulation(seed=seed, searches=40.0)
        simulate.write_log(truth, root / name, settings, "forward")
    shutil.move(root / "later" / "clicks.csv", root / "log/clicks_later.csv")
    shutil.rmtree(root / "later")

    arguments = [f"--log={root}/log", f"--out={root}"]
    if with_truth:
        arguments.append(f"--truth={truth}")
    encoders = categorize.features
    with (
        mock.patch.object(encoders, "image_features", image_features),
        mock.patch.object(encoders, "text_features", text_features),
    ):
        assert categorize.main(arguments) == 0


def image_features(name, paths, size):
    pixels = [np.asarray(Image.open(path)).ravel() for path in paths]
    return np.stack(pixels).astype(np.float32)


def text_features(name, texts, length):
    words = np.random.default_rng(1).normal(size=(CATEGORIES, 8))
    return words[[int(t.split()[1]) for t in texts]].astype(np.float32)
