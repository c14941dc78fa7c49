"""Commands give the same results for images as files and as bytes in a table.

The images of the converted tables are removed, so that they cannot be read.
"""

import os
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mixer_jax import api, categorize, evaluate, index, report
from mixer_jax.data import check, prepare
from mixer_jax.data.images import decoding
from mixer_jax.data.prepared import build, opening
from mixer_jax.data.tables import table
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import image_reader, references, tables
from mixer_jax.service import opening as indexes
from mixer_jax.training import inputs
from tests import inline_images, measured, shop
from tests.data.prepared.samples import files_named
from tests.training import toy_config

PARTS = 3


@pytest.fixture
def both(toy, tmp_path):
    """A table with paths, and one in parts with the same images as bytes."""
    path = toy.write_table(tmp_path / "files", categories=6)
    frame = table.read_table(path)
    inside = tmp_path / "bytes" / "table"
    for part in range(PARTS):
        rows = np.array_split(np.arange(len(frame)), PARTS)[part]
        inline_images.write(
            frame.iloc[rows],
            path.parent,
            inside / f"part-{part}.parquet",
            kind=("binary", "struct", "large")[part],
            row_group_size=5,
        )
    return path, inside


def bytes_of(path):
    return [a.read_bytes() for a in files_named(path)]


@pytest.mark.parametrize("workers", [0, 2])
def test_prepared_samples_are_the_same(both, workers):
    made = []
    for path in both:
        options = build.Options(shards=4, workers=workers)
        opened = opening.open_table(path, "train", options=options)
        made.append(bytes_of(opened.prepared))
        samples, source = opened.prepared.training()
        contents = [source[row] for row in range(len(source))]
        made[-1] += [contents, samples.labels.tolist()]
    assert made[0] == made[1]
    # Equal images count as one, unlike equal files.
    distinct = {content for content, _ in contents}
    assert len(samples.first_image) == len(distinct)
    for row, first in enumerate(samples.first_image[samples.images]):
        assert contents[row][0] == contents[first][0]


def test_prepared_images_are_not_read_again(both, monkeypatch):
    _, path = both
    for part in path.iterdir():
        _age(part)
    first = opening.open_table(path, "train")
    for module, name in ((tables, "read"), (image_reader, "read")):
        monkeypatch.setattr(module, name, None)
    again = opening.open_table(path, "train")
    assert again.prepared.folder == first.prepared.folder


def test_only_changed_images_are_decoded_again(both, monkeypatch, tmp_path):
    path, inside = both
    names = []
    check = decoding.check
    first = opening.open_table(inside, "train").prepared

    def spy(content, *rest, **settings):
        names.append(content)
        return check(content, *rest, **settings)

    monkeypatch.setattr(decoding, "check", spy)
    frame = table.read_table(path)
    # The rows move to other files, and one image is replaced.
    shutil.copy(
        path.parent / frame["image"].iloc[1],
        path.parent / frame["image"].iloc[5],
    )
    shutil.rmtree(inside)
    inline_images.write(frame, path.parent, inside / "only.parquet")
    second = opening.open_table(inside, "train").prepared
    assert names == [(path.parent / frame["image"].iloc[1]).read_bytes()]
    assert second.folder.name != first.folder.name
    assert second.manifest["content"] != first.manifest["content"]
    # Rows that only move are not prepared again.
    shutil.move(inside / "only.parquet", inside / "renamed.parquet")
    third = opening.open_table(inside, "train").prepared
    assert third.folder == second.folder
    assert len(names) == 1


def _age(path):
    os.utime(path, ns=(10**18, 10**18))


def test_faulty_images_are_listed_with_file_and_row(both, capsys):
    _, inside = both
    part = inside / "part-1.parquet"
    rows = pq.read_table(part)
    cells = rows["image"].to_pylist()
    cells[2]["bytes"] = cells[2]["bytes"][:-40]
    place = rows.column_names.index("image")
    column = rows.schema.field("image")
    pq.write_table(rows.set_column(place, column, [cells]), part)
    arguments = [f"--table={inside}", "--split=train"]
    assert prepare.main(arguments) == 2
    assert f"{part}, row 3: cannot be decoded: trunc" in _flat(capsys)
    for _ in range(2):
        assert prepare.main([*arguments, "--max-skipped=0.5"]) == 0
        (listed,) = inside.parent.glob("prepared/*/*/skipped.csv")
        skipped = pd.read_csv(listed)
        assert skipped["kind"].tolist() == ["truncated"]
        assert skipped["image"][0].startswith("table/part-1.parquet#3@")
        assert f"{part}, row 3: " in skipped["reason"][0]
    assert check.main([f"--table={inside}", "--images"]) == 0


def _flat(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_a_table_that_changes_while_it_is_read_is_noticed(both):
    path, inside = both
    frame = table.select(table.read_table(inside), "train")
    rows = np.array_split(np.arange(len(frame)), PARTS)[1][::-1]
    other = table.read_table(path).iloc[rows]
    inline_images.write(other, path.parent, inside / "part-1.parquet")
    made = build.prepare(frame, inside.parent)
    assert {fault.kind for fault in made.skipped} == {"unreadable"}
    assert "no longer holds the image that it held" in made.skipped[0].reason
    # Faults are cleared once the table is consistent again.
    frame = table.select(table.read_table(inside), "train")
    assert not build.prepare(frame, inside.parent).skipped


def test_batches_are_the_same(both, tiny_config):
    found = []
    for path in both:
        tiny_config.data.table = str(path)
        for made in (False, True):
            loaded = inputs.load(tiny_config.data, prepare=made)
            content = inputs.Pictures(loaded, tiny_config)
            batch = next(content.train_batches())
            found.append(batch["query"]["image"])
    for images in found[1:]:
        np.testing.assert_array_equal(images, found[0])


@pytest.mark.slow
def test_trained_models_are_measured_the_same(color_run, colors, tmp_path):
    root, frame = colors
    path = inline_images.write(frame, root, tmp_path / "new" / "colors.parquet")
    stage = color_run / "stage2"
    results = [
        measured.measure(place, stage, tmp_path / name)
        for name, place in (("files", root / "colors.csv"), ("other", path))
    ]
    assert results[0] == results[1]
    assert results[0][0][0]["identical_at_1"] == 1.0


@pytest.mark.slow
def test_reports_and_indexes_show_the_pictures(color_run, colors, tmp_path):
    root, _ = colors
    path = inline_images.convert(root / "colors.csv")
    assert evaluate.main([f"--workdir={color_run}", f"--table={path}"]) == 0
    out = tmp_path / "report.html"
    given = [f"--workdir={color_run}", f"--table={path}", f"--out={out}"]
    assert report.main(given) == 0
    assert out.read_text().count("data:image/webp") > 4
    out = tmp_path / "index"
    given = [f"--table={path}", f"--workdir={color_run}/stage2"]
    assert index.main(["build", *given, f"--out={out}"]) == 0
    with indexes.open_with(out) as made:
        names = made.store.images()
        assert len(names) == 12
        assert all(map(references.parse, names))
        assert not indexes.check_images(made)
        assert made.images == root


@pytest.mark.slow
def test_categories_are_found_and_trained_on(tmp_path, monkeypatch):
    features = categorize.features
    monkeypatch.setattr(features, "image_features", _image_features)
    monkeypatch.setattr(features, "text_features", shop.text_features)
    found = []
    shop.build(tmp_path / "files", with_truth=False)
    shutil.copytree(tmp_path / "files", tmp_path / "bytes")
    for name in ("queries", "items"):
        path = tmp_path / "bytes" / "log" / f"{name}.csv"
        frame = tables.read(path, tables.Layout(inline_images._columns(path)))
        inline_images.write(frame, path.parent, path.with_suffix(".parquet"))
        path.unlink()
    shutil.rmtree(tmp_path / "bytes" / "data")
    (tmp_path / "bytes" / "log" / ".features").unlink(missing_ok=True)
    for name in ("files", "bytes"):
        folder = tmp_path / name
        out = [f"--log={folder}/log", f"--out={folder}"]
        assert categorize.main(out) == 0
        rows = table.read_table(folder / "found.csv")
        opened = opening.open_table(folder / "found.csv", "train")
        assert not opened.unreadable.count
        found.append(rows.drop(columns="image").values.tolist())
    assert found[0] == found[1]
    assert report.main([f"--categories={tmp_path}/bytes"]) == 0


def _image_features(name, paths, size):
    pixels = [features_of(path) for path in paths]
    return np.stack(pixels).astype(np.float32)


def features_of(path):
    return decoding.decode(path, 8).ravel()


def test_paths_and_bytes_in_one_table_are_refused(both, capsys):
    path, inside = both
    frame = table.read_table(path)
    tables.write(frame.iloc[:3], inside / "part-9.parquet")
    for command in (check, prepare):
        assert command.main([f"--table={inside}"]) == 2
        error = _flat(capsys)
        assert "part-9.parquet, row 1, column image: the cell holds" in error
    with pytest.raises(UserError, match="either paths or bytes"):
        table.read_table(inside)


@pytest.mark.slow
def test_a_run_trains_on_bytes(both, tmp_path):
    config = toy_config.get_config(str(both[1])).stage1
    config.name, config.steps = "stage1", 2
    model = api.train(config, tmp_path / "run")
    first = table.read_table(both[1]).iloc[0]
    name = both[1].parent / first["image"]
    assert model.embed_queries([name]).shape == (1, 16)
