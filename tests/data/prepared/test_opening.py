"""Prepared samples are opened without reading the table or the images."""

import functools
import json
import os
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.data.prepared import build, opening
from mixer_jax.data.tables import table
from mixer_jax.runtime import files, identity
from mixer_jax.runtime.tabular import tables
from tests.data.prepared.samples import contents

OLD = 10**18  # nanoseconds; in 2001


@pytest.fixture
def path(root, frame):
    """A table last modified long ago, with one broken image."""
    (root / "5.png").write_bytes(b"no image")
    path = root / "table.csv"
    write(frame.assign(split="train"), path)
    return path


def write(frame, path, when=OLD):
    table.write_table(frame, path)
    os.utime(path, ns=(when, when))


@pytest.fixture
def reads(monkeypatch):
    """The list of tables and images read from now on."""
    found = []
    for module, name in (
        (tables, "read"),
        (decoding, "read"),
        (identity, "_read_digests"),
    ):
        spy = functools.partial(_spy, found, getattr(module, name))
        monkeypatch.setattr(module, name, spy)
    return found


def _spy(found, original, first, *rest, **settings):
    if not isinstance(first, list) or first:
        found.append(first)
    return original(first, *rest, **settings)


def describe(opened):
    """Returns everything that training uses at startup."""
    samples, source = opened.prepared.training()
    return (
        opened.prepared.folder,
        opened.prepared.owned,
        opened[1:],
        list(samples.category_ids),
        samples.labels.tolist(),
        contents(source),
        opened.prepared.manifest,
    )


def test_nothing_is_read_while_nothing_changes(path, reads):
    first = describe(opening.open_table(path, "train"))
    assert first[2][0].count == 1
    assert first[3] == ["c0", "c1"]
    assert reads
    reads.clear()
    for make in (False, True):
        again = opening.open_table(path, "train", make=make)
        assert describe(again) == first
    assert not reads


def test_the_list_of_left_out_images_is_kept(path, root):
    for _ in range(2):
        opened = opening.open_table(path, "train")
        assert opened.listed
        listed = opened.prepared.folder / "skipped.csv"
        assert listed.read_text() == opened.listed
        rows = pd.read_csv(listed)
        assert rows.image.tolist() == ["5.png"]
        assert rows.row.tolist() == [6]


def edit_text(path, root):
    write(table.read_table(path).assign(group="h"), path, OLD + 1)


def edit_image(path, root):
    Image.new("RGB", (8, 8), "red").save(root / "1.png")


def repair_image(path, root):
    Image.new("RGB", (8, 8), "red").save(root / "5.png")


def remove_image(path, root):
    (root / "1.png").unlink()


def touch_table(path, root):
    os.utime(path, ns=(OLD + 5, OLD + 5))


def touch_image(path, root):
    os.utime(root / "1.png", ns=(OLD, OLD))


def damage_record(path, root):
    for record in root.rglob(opening.RECORD):
        record.write_text("[1]")


@pytest.mark.parametrize(
    "change", [edit_text, edit_image, repair_image, remove_image]
)
def test_changes_are_noticed(path, root, change, tmp_path):
    first = opening.open_table(path, "train")
    change(path, root)
    second = opening.open_table(path, "train")
    assert second.prepared.folder != first.prepared.folder
    fresh = opening.open_table(path, "train", tmp_path / "fresh")
    assert describe(second)[3:] == describe(fresh)[3:]


@pytest.mark.parametrize("change", [touch_table, touch_image, damage_record])
def test_a_new_time_leads_to_one_more_look(path, root, change, reads):
    first = describe(opening.open_table(path, "train"))
    change(path, root)
    for looks in (True, False):
        reads.clear()
        assert describe(opening.open_table(path, "train")) == first
        assert bool(reads) == looks


def test_a_table_that_was_just_written_is_read_again(path, reads):
    """It could change again within the resolution of its timestamp."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    for _ in range(2):
        reads.clear()
        opening.open_table(path, "train")
        assert reads


def test_other_options_and_splits_are_not_confused(path, root, reads):
    first = opening.open_table(path, "train")
    write(table.read_table(path).assign(split=["train", "test"] * 3), path, OLD)
    for split, options in (
        ("train", build.Options(max_pixels=63)),
        ("train", build.Options(shards=2)),
        ("test", build.Options()),
    ):
        reads.clear()
        opened = opening.open_table(path, split, options=options)
        assert opened.prepared.folder != first.prepared.folder
        assert reads


def test_a_moved_folder_is_opened_and_its_list_renewed(path, root, reads):
    first = opening.open_table(path, "train")
    moved = root.parent / "moved"
    shutil.move(root, moved)
    for looks in (True, False):
        reads.clear()
        opened = opening.open_table(moved / path.name, "train")
        assert bool(reads) == looks
        assert opened.prepared.folder.name == first.prepared.folder.name
        assert str(moved / "5.png") in opened.listed
        assert str(moved / "5.png") in opened.unreadable.examples[0]


def test_a_read_only_folder_can_be_opened(path, monkeypatch):
    first = describe(opening.open_table(path, "train"))
    damage_record(path, path.parent)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(files, "write", refuse)
    assert describe(opening.open_table(path, "train")) == first


def test_unprepared_samples_are_not_opened(path):
    assert opening.open_table(path, "train", make=False) is None


def test_parts_of_a_folder_of_parquet_files_are_watched(root, frame, reads):
    folder = root / "parts"
    folder.mkdir()
    frame = frame.assign(split="train")
    for number, rows in enumerate((frame[:4], frame[4:])):
        write(rows, folder / f"{number}.parquet")
    first = opening.open_table(folder, "train")
    reads.clear()
    opening.open_table(folder, "train")
    assert not reads
    write(frame[:4].assign(group="h"), folder / "0.parquet", OLD + 1)
    second = opening.open_table(folder, "train")
    assert second.prepared.folder != first.prepared.folder


def test_columns_are_not_held_in_memory(path):
    opened = opening.open_table(path, "train")
    samples, source = opened.prepared.training()
    for name, column in vars(samples).items():
        if isinstance(column, np.ndarray):
            assert isinstance(column.base, np.memmap), name
    assert isinstance(source._places.base, np.memmap)
    recorded = json.loads((opened.prepared.folder / opening.RECORD).read_text())
    assert recorded["table"]["files"] == [[".", path.stat().st_size, OLD]]
