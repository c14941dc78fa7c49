import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_jax.data import builder, generations
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import table
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import PassingError, UserError


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


def test_prepared_source_matches_the_image_files(frame, root, tmp_path, capfd):
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


def test_rows_of_a_selected_split_stay_aligned(frame, root):
    train = table.select(frame, "train").iloc[::-1]
    want = contents(pipeline.FileSource(train, root))
    assert contents(builder.prepare(train, root)) == want
    assert (root / "prepared").is_dir()


def test_tfds_can_read_the_files(frame, root):
    builder.prepare(frame, root)
    (folder,) = (root / "prepared").glob("*/*/sample_table/1.0.0")
    source = tfds.builder_from_directory(folder).as_data_source("train")
    sample = source[0]
    assert sample["sample_id"].decode() == "q0"
    assert sample["split"].decode() == "train/a"
    assert sample["image"].shape == (8, 8, 3)


def test_unchanged_content_is_written_only_once(frame, root, monkeypatch):
    want = contents(builder.prepare(frame, root))
    monkeypatch.setattr(builder, "_write", None)
    assert contents(builder.prepare(frame, root)) == want


def test_changed_content_is_written_again(frame, root):
    keys = {builder.prepare(frame, root).content}
    keys.add(builder.prepare(frame.assign(group="h"), root).content)
    keys.add(builder.prepare(frame.iloc[::-1], root).content)
    Image.new("RGB", (100, 9)).save(root / "3.png")
    source = builder.prepare(frame, root)
    assert len(keys | {source.content}) == 4
    assert source[3][0] == (root / "3.png").read_bytes()


def generations_of(root):
    return sorted((root / "prepared").glob("*/*"))


def test_new_generation_replaces_the_old_one(frame, root):
    builder.prepare(frame, root)
    (first,) = generations_of(root)
    builder.prepare(frame.assign(text="edited"), root)
    (second,) = generations_of(root)
    assert first != second
    # Another split of the same table has its own generation.
    builder.prepare(table.select(frame, "train"), root)
    assert second in generations_of(root)
    assert len(generations_of(root)) == 2


def test_generation_in_use_is_not_removed(frame, root):
    """Also if a worker process opens it only later."""
    want = contents(pipeline.FileSource(frame, root))
    old = builder.prepare(frame, root)
    sent = pickle.dumps(old)
    new = builder.prepare(frame.assign(text="edited"), root)
    assert len(generations_of(root)) == 2
    assert contents(pickle.loads(sent)) == want
    del old
    assert new.content != builder.prepare(frame, root).content
    del new
    builder.prepare(frame.assign(text="again"), root)
    assert len(generations_of(root)) == 1


def flip_bit(path):
    """Flips a bit of a file's last byte; returns its previous status."""
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return status


def test_changed_times_cause_only_a_content_check(frame, root, monkeypatch):
    first = builder.prepare(frame, root).content
    for name in "035":
        os.utime(root / f"{name}.png", ns=(int(name), int(name)))
    messages, read = [], []
    spy = identity._read_digests
    monkeypatch.setattr(
        identity, "_read_digests", lambda x: (read.extend(x), spy(x))[1]
    )
    monkeypatch.setattr(builder, "_write", None)
    assert builder.prepare(frame, root, say=messages.append).content == first
    assert [path.name for path in read] == ["0.png", "3.png", "5.png"]
    read.clear()
    assert builder.prepare(frame, root, say=messages.append).content == first
    assert not read
    assert not messages


def test_changed_image_of_equal_size_is_prepared_again(frame, root):
    first = builder.prepare(frame, root).content
    flip_bit(root / "3.png")
    os.utime(root / "3.png", ns=(5, 5))
    messages = []
    source = builder.prepare(frame, root, say=messages.append)
    assert source.content != first
    assert source[3][0] == (root / "3.png").read_bytes()
    assert messages == [
        "1 image has changed since the data was prepared, such as 3.png; "
        "preparing the data again."
    ]
    assert len(generations_of(root)) == 1


def test_moved_or_renamed_table_is_not_prepared_again(
    frame, root, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    frame.attrs["table"] = str(root / "one.csv")
    content = builder.prepare(frame, root, out).content
    place = shutil.copytree(
        root, tmp_path / "moved", ignore=lambda *_: {"out", "moved"}
    )
    monkeypatch.setattr(builder, "_write", None)
    frame.attrs["table"] = str(place / "two.csv")
    assert builder.prepare(frame, place, out).content == content


def test_concurrent_preparations_share_one_result(frame, root, monkeypatch):
    write, done = builder._write, []

    def prepare_first(*args):
        if not done:
            done.append(None)
            done.append(builder.prepare(frame, root))
        return write(*args)

    monkeypatch.setattr(builder, "_write", prepare_first)
    source = builder.prepare(frame, root)
    assert source.content == done[1].content
    assert contents(source) == contents(done[1])
    assert len(generations_of(root)) == 1


def test_drafts_of_killed_processes_are_removed(frame, root):
    builder.prepare(frame, root)
    (group,) = (root / "prepared").iterdir()
    with generations.draft(group) as living:
        with generations.draft(group) as killed:
            os.rename(killed, left := killed.with_name(killed.name + "x"))
            (left / "file").write_text("")
        assert left.is_dir()
        builder.prepare(frame.assign(text="edited"), root)
        assert not left.exists()
        assert living.is_dir()


@settings(max_examples=15, deadline=None)
@given(
    name=st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"),
        min_size=1,
        max_size=40,
    ).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)
)
@example("b[1]")
@example("*?{a,b}")
def test_root_and_table_may_have_any_name(name):
    rows = [
        ("q", "query", "a.png", "", "c", "", "train"),
        ("d", "document", "", "text", "c", "", "train"),
    ]
    frame = pd.DataFrame(rows, columns=table.COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / name
        root.mkdir()
        Image.new("RGB", (2, 2)).save(root / "a.png")
        frame.attrs["table"] = f"{root}/{name}.csv"
        want = contents(pipeline.FileSource(frame, root))
        assert contents(builder.prepare(frame, root)) == want


@pytest.mark.parametrize("name", ["a[1]", "**", "*", "a\\b", "é?", "\udcff"])
def test_root_name_may_contain_special_characters(frame, root, name):
    (root / "a1").mkdir()  # Matches the pattern a[1].
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


def test_interrupted_preparation_is_never_used(frame, root, monkeypatch):
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
    assert not generations_of(root)
    want = contents(pipeline.FileSource(frame, root))
    assert contents(builder.prepare(frame, root)) == want


def test_missing_image_raises_an_error(frame, root):
    (root / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png"):
        builder.prepare(frame, root)


def test_unwritable_folder_raises_an_error(frame, root):
    (root / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.prepared"):
        builder.prepare(frame, root, root / "file" / "folder")


def test_prepared_source_yields_the_same_batches_as_files(frame, root):
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


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def files_in(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.read_bytes()) for path in found]


@pytest.mark.parametrize("place", ["prepared", "out"])
def test_a_newer_format_is_refused(frame, root, place):
    builder.prepare(frame, root, root / place)
    (folder,) = (root / place).glob("*/*")
    (folder / generations.RECORD).write_text('{"format": 2}')
    (folder / identity.NOTES).write_bytes(b"a newer format of the notes")
    before = files_in(root)
    with pytest.raises(UserError) as raised:
        builder.prepare(frame, root, root / place)
    assert str(raised.value) == (
        f"The prepared data in {folder} has format 2, but this version of "
        "mixer_jax only reads formats up to 1; install a newer version, or "
        "set the config's data.prepared to another folder."
    )
    assert files_in(root) == before
    # Another folder can be used, as the message says.
    want = contents(pipeline.FileSource(frame, root))
    assert contents(builder.prepare(frame, root, root / "another")) == want


def test_a_newer_format_of_other_rows_is_kept(frame, root):
    builder.prepare(frame, root)
    (folder,) = generations_of(root)
    (folder / generations.RECORD).write_text('{"format": 2}')
    before = files_in(folder)
    builder.prepare(frame.assign(text="edited"), root)
    assert files_in(folder) == before


def break_json(path):
    path.write_text('{"from": "a newer version"}')


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*-train.array_record*", os.remove),
        ("*-train.array_record*", truncate),
        ("dataset_info.json", os.remove),
        ("dataset_info.json", break_json),
        ("features.json", os.remove),
        ("prepared.json", os.remove),
        ("prepared.json", break_json),
        ("prepared.json", lambda path: path.write_text('{"format": 0}')),
        ("1.0.0", shutil.rmtree),
    ],
)
def test_damaged_files_are_prepared_again(frame, root, pattern, damage):
    want = contents(builder.prepare(frame, root))
    (path,) = (root / builder.FOLDER).rglob(pattern)
    damage(path)
    messages = []
    source = builder.prepare(frame, root, say=messages.append)
    assert contents(source) == want
    assert len(messages) == 1
    assert "missing or damaged files" in messages[0]
    assert contents(builder.prepare(frame, root, say=messages.append)) == want
    assert len(messages) == 1


def test_reading_a_damaged_sample_raises_a_user_error(frame, root):
    source = builder.prepare(frame, root)
    for path in (root / builder.FOLDER).rglob("*array_record*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"cannot be read .*remove that folder"):
        contents(pickle.loads(pickle.dumps(source)))


def test_losing_files_while_writing_raises_an_error(frame, root, monkeypatch):
    write = builder._write

    def lose(frame, root, folder):
        digests = write(frame, root, folder)
        for path in folder.rglob("*array_record*"):
            path.unlink()
        return digests

    monkeypatch.setattr(builder, "_write", lose)
    with pytest.raises(UserError, match="right after it was written"):
        builder.prepare(frame, root)


def test_image_changed_during_preparation_raises_an_error(
    frame, root, monkeypatch
):
    write = builder._write

    def change(*arguments):
        digests = write(*arguments)
        with open(root / "3.png", "ab") as file:
            file.write(b"more")
        return digests

    monkeypatch.setattr(builder, "_write", change)
    with pytest.raises(PassingError, match=r"3\.png was changed while"):
        builder.prepare(frame, root)
    monkeypatch.setattr(builder, "_write", write)
    want = contents(pipeline.FileSource(frame, root))
    assert contents(builder.prepare(frame, root)) == want
    assert len(list((root / builder.FOLDER).glob("*/*"))) == 1
