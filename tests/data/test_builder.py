import pickle
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mixer_jax.data import builder, pipeline, table, text
from mixer_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.fixture
def frame():
    rows = [
        (f"q{i}", "query", f"{i}.png", "", f"c{i}", "", split)
        for i, split in enumerate(("train/a", "test-x", "train/b"))
    ]
    rows += [
        (f"d{i}", "document", image, words, f"c{i}", "g", split)
        for i, (image, words, split) in enumerate(
            (
                ("3.png", "größe ✓", "test-x"),
                ("", "words only", "train/a"),
                ("5.png", "", "train/b"),
            )
        )
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)


def contents(source):
    return [source[row] for row in range(len(source))]


def test_a_prepared_source_equals_the_files(frame, root, tmp_path, capfd):
    want = contents(pipeline.FileSource(frame, root))
    source = builder.prepare(frame, root, tmp_path / "out")
    assert contents(source) == want
    assert source[4][0] == b""
    files = {path.name for path in (tmp_path / "out").rglob("*array_record*")}
    assert files == {
        "sample_table-train.array_record-00000-of-00001",
        "sample_table-test-x.array_record-00000-of-00001",
    }
    assert "ownload" not in "".join(capfd.readouterr())


def test_rows_of_a_selection_stay_aligned(frame, root):
    train = table.select(frame, "train").iloc[::-1]
    want = contents(pipeline.FileSource(train, root))
    assert contents(builder.prepare(train, root)) == want
    assert (root / "prepared").is_dir()


def test_other_tools_can_read_the_files(frame, root):
    builder.prepare(frame, root)
    (folder,) = (root / "prepared").glob("*/sample_table/1.0.0")
    source = tfds.builder_from_directory(folder).as_data_source("train")
    sample = source[0]
    assert sample["sample_id"].decode() == "q0"
    assert sample["split"].decode() == "train/a"
    assert sample["image"].shape == (8, 8, 3)


def test_the_same_content_is_written_once(frame, root, monkeypatch):
    want = contents(builder.prepare(frame, root))
    monkeypatch.setattr(builder, "_write", None)
    assert contents(builder.prepare(frame, root)) == want


def test_other_content_is_written_anew(frame, root):
    keys = {builder.content_key(frame, root)}
    keys.add(builder.content_key(frame.assign(group="h"), root))
    keys.add(builder.content_key(frame.iloc[::-1], root))
    Image.new("RGB", (9, 9)).save(root / "3.png")
    keys.add(builder.content_key(frame, root))
    assert len(keys) == 4
    builder.prepare(frame, root)
    Image.new("RGB", (10, 10)).save(root / "3.png")
    source = builder.prepare(frame, root)
    assert source[3][0] == (root / "3.png").read_bytes()
    assert len(list((root / "prepared").iterdir())) == 2


@pytest.mark.parametrize("name", ["a[1]", "**", "*", "a\\b", "é?", "\udcff"])
def test_a_table_may_lie_in_a_folder_of_any_name(frame, root, name):
    (root / "a1").mkdir()  # What the pattern of a name may fit.
    images = list(root.glob("*.png"))
    root = root / name
    root.mkdir()
    for image in images:
        shutil.copy(image, root)
    source = builder.prepare(frame, root)
    wanted = contents(pipeline.FileSource(frame, root))
    assert contents(source) == wanted
    assert contents(pickle.loads(pickle.dumps(source))) == wanted
    again = builder.prepare(frame, root)
    assert contents(again) == wanted


def test_a_half_written_preparation_is_never_used(frame, root, monkeypatch):
    generate = builder.SampleTable._generate_examples

    def broken(self, rows):
        for number, pair in enumerate(generate(self, rows)):
            if number:
                raise KeyboardInterrupt
            yield pair

    with monkeypatch.context() as patch:
        patch.setattr(builder.SampleTable, "_generate_examples", broken)
        with pytest.raises(KeyboardInterrupt):
            builder.prepare(frame, root)
    key = builder.content_key(frame, root)
    assert not (root / "prepared" / key).exists()
    want = contents(pipeline.FileSource(frame, root))
    assert contents(builder.prepare(frame, root)) == want


def test_a_missing_image_is_named(frame, root):
    (root / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png"):
        builder.prepare(frame, root)


def test_a_folder_that_cannot_be_written_is_named(frame, root):
    (root / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.prepared"):
        builder.prepare(frame, root, root / "file" / "folder")


def test_it_feeds_the_pipeline(frame, root):
    train = table.select(frame, "train")
    tokenizer = text.load("minilm", 6)
    index = table.category_index(train)
    options = {"image_size": 16, "batch_size": 4, "augment": "strong"}
    first, second = (
        pipeline.train_batches(train, source, index, tokenizer, **options)
        for source in (
            pipeline.FileSource(train, root),
            builder.prepare(train, root),
        )
    )
    for _ in range(4):
        a, b = next(first), next(second)
        for role in ("query", "document"):
            for name, leaf in a[role].items():
                np.testing.assert_array_equal(leaf, b[role][name])


def test_tensorflow_is_not_imported():
    script = (
        "import sys; from mixer_jax.data import builder; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
