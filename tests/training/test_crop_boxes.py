"""Crop boxes in a large picture give the same results as separate files."""

import shutil
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax import categorize, index
from mixer_jax.data import check, prepare
from mixer_jax.data.images import decoding
from mixer_jax.data.prepared import content, opening
from mixer_jax.data.tables import table
from mixer_jax.runtime.tabular import boxes, tables
from mixer_jax.service import opening as indexes
from mixer_jax.service.http import pictures
from mixer_jax.training import inputs
from tests import inline_images, measured, shop


def collage(frame, root, path):
    """Tiles a frame's images into one picture; writes a table of its parts.

    The picture is next to the table. All images have the same size.
    """
    images = [Image.open(root / name) for name in frame["image"]]
    (width, height), count = images[0].size, len(images)
    whole = Image.new("RGB", (2 * width, count * height))
    corners = np.zeros((count, 4), int)
    for number, image in enumerate(images):
        x, y = width * (number % 2), height * number
        whole.paste(image, (x, y))
        corners[number] = x, y, x + width, y + height
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path.parent / "all.png")
    numbers = dict(zip(boxes.COLUMNS, corners.T, strict=True))
    tables.write(frame.assign(image="all.png", **numbers), path)
    return path


@pytest.fixture
def both(toy, tmp_path):
    """A table of images, and one with the same images as parts of a picture."""
    path = toy.write_table(tmp_path / "files", categories=6)
    frame = table.read_table(path)
    return path, collage(frame, path.parent, tmp_path / "parts" / "table.csv")


@pytest.mark.parametrize("kind", ["paths", "bytes"])
def test_batches_are_the_same(both, tiny_config, kind):
    if kind == "bytes":
        rows = tables.read(both[1], table.rules.LAYOUT)
        made = both[1].with_suffix(".parquet")
        inline_images.write(rows, both[1].parent, made)
        (both[1].parent / "all.png").unlink()
        both = (both[0], made)
    found = []
    for path in both:
        tiny_config.data.table = str(path)
        for made in (False, True):
            loaded = inputs.load(tiny_config.data, prepare=made)
            assert len(loaded.samples.first_image) == len(loaded.samples)
            content = inputs.Pictures(loaded, tiny_config)
            batch = next(content.train_batches())
            found.append((batch["query"]["image"], batch["document"]["image"]))
    for batch in found[1:]:
        np.testing.assert_array_equal(batch, found[0])


def test_only_rows_with_another_box_are_prepared_again(both, monkeypatch):
    calls = []
    check = decoding.check

    def spy(*given, **options):
        calls.append(given)
        return check(*given, **options)

    # Threads of other tests may still prefetch images, but not for shards.
    spied = types.SimpleNamespace(**vars(decoding) | {"check": spy})
    monkeypatch.setattr(content, "decoding", spied)
    first = opening.open_table(both[1], "train").prepared
    assert len(calls) == len(first.rows)
    calls.clear()
    rows = tables.read(both[1], table.rules.LAYOUT)
    rows.loc[3, "x2"] = "999"
    tables.write(rows, both[1])
    second = opening.open_table(both[1], "train").prepared
    assert len(calls) == 1
    assert second.manifest["content"] != first.manifest["content"]
    assert first.folder != second.folder


def test_tfds_has_the_picture_and_the_box(both):
    import tensorflow_datasets as tfds

    made = opening.open_table(both[1], "train").prepared
    builder = tfds.builder_from_directory(made.folder / "sample_table/1.0.0")
    row = builder.as_data_source("train")[3]
    assert row["box"] == b"16,48,32,64"
    assert row["image"].shape == (24 * 16, 32, 3)


def test_bad_boxes_are_reported(both, capsys):
    rows = tables.read(both[1], table.rules.LAYOUT)
    tables.write(rows.assign(x1="7", x2="7"), both[1])
    for command in (check, prepare):
        assert command.main([f"--table={both[1]}"]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"{both[1]}, line 2, column x2: a crop box must" in error
        assert "(and 23 more rows)" in error
    rows.loc[4, ["x1", "x2"]] = ["900", "910"]
    tables.write(rows, both[1])
    given = [f"--table={both[1]}", "--max-skipped=0.1"]
    assert check.main([f"--table={both[1]}", "--images"]) == 0
    assert prepare.main(given) == 0
    (listed,) = both[1].parent.glob("prepared/*/*/skipped.csv")
    skipped = pd.read_csv(listed)
    assert skipped["image"].tolist() == ["all.png#box=900,64,910,80"]
    assert "does not overlap the image of 32 x 384" in skipped["reason"][0]


@pytest.mark.slow
def test_trained_models_are_measured_the_same(color_run, colors, tmp_path):
    root, frame = colors
    path = collage(frame, root, tmp_path / "new" / "colors.csv")
    stage = color_run / "stage2"
    results = [
        measured.measure(place, stage, tmp_path / name)
        for name, place in (("files", root / "colors.csv"), ("other", path))
    ]
    assert results[0] == results[1]
    given = [f"--table={path}", f"--workdir={stage}"]
    assert index.main(["build", *given, f"--out={tmp_path / 'index'}"]) == 0
    with indexes.open_with(tmp_path / "index") as made:
        shown = pictures.respond(made.path_of(made.store.images()[0]), b"", "a")
        assert shown.media_type == "image/webp"
        assert not indexes.check_images(made)


@pytest.mark.slow
def test_categories_are_found_and_trained_on(tmp_path, monkeypatch):
    features = categorize.features
    monkeypatch.setattr(features, "image_features", _image_features)
    monkeypatch.setattr(features, "text_features", shop.text_features)
    shop.build(tmp_path / "files", with_truth=False)
    shutil.copytree(tmp_path / "files/log", tmp_path / "parts/log")
    for name in ("queries", "items"):
        log = tmp_path / "files/log"
        frame = tables.read(
            log / f"{name}.csv",
            tables.Layout(inline_images._columns(log / f"{name}.csv")),
        )
        collage(frame, log, tmp_path / "parts/log" / name / "table.csv")
        path = tmp_path / "parts/log" / f"{name}.csv"
        rows = pd.read_csv(path.parent / name / "table.csv", dtype=str)
        rows["image"] = f"{name}/all.png"
        rows.to_csv(path, index=False)
    found = []
    for name in ("files", "parts"):
        folder = tmp_path / name
        out = [f"--log={folder}/log", f"--out={folder}"]
        assert categorize.main(out) == 0
        rows = table.read_table(folder / "found.csv")
        opened = opening.open_table(folder / "found.csv", "train")
        assert not opened.unreadable.count
        found.append(rows.drop(columns="image").values.tolist())
    assert found[0] == found[1]


def _image_features(name, paths, size):
    pixels = [decoding.decode(path, 8).ravel() for path in paths]
    return np.stack(pixels).astype(np.float32)
