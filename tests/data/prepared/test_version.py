"""Damaged, newer and foreign versions of prepared data."""

import os
import shutil

import pytest

from mixer_jax.data.prepared import (
    build,
    generations,
)
from mixer_jax.data.stream import pipeline
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import UserError
from tests.data.prepared.samples import (
    break_json,
    contents,
    files_in,
    generations_of,
    prepare,
    truncate,
)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*-train.array_record*", os.remove),
        ("*-train.array_record*", truncate),
        ("dataset_info.json", os.remove),
        ("dataset_info.json", break_json),
        ("features.json", os.remove),
        ("manifest.json", os.remove),
        ("manifest.json", break_json),
        ("manifest.json", lambda path: path.write_text('{"format": 1}')),
        ("rows.npy", os.remove),
        ("*-*/images.npy", os.remove),
        ("images.arrow", os.remove),
        ("images.arrow", truncate),
        ("rows.npy", truncate),
        ("labels.npy", truncate),
        ("labels.npy", os.remove),
        ("records.npy", truncate),
        ("category_ids.arrow", truncate),
        ("category_ids.arrow", os.remove),
        ("1.0.0", shutil.rmtree),
    ],
)
def test_damaged_files_are_prepared_again(frame, root, pattern, damage):
    want = contents(prepare(frame, root))
    (path,) = (root / build.FOLDER).rglob(pattern)
    damage(path)
    messages = []
    source = prepare(frame, root, say=messages.append)
    assert contents(source) == want
    assert len(messages) == 1
    assert "missing or damaged files, or" in messages[0]
    assert contents(prepare(frame, root, say=messages.append)) == want
    assert len(messages) == 1


def test_a_newer_format_of_other_rows_is_kept(frame, root):
    prepare(frame, root)
    (folder,) = generations_of(root)
    (folder / generations.RECORD).write_text('{"format": 6}')
    before = files_in(folder)
    prepare(frame.assign(text="edited"), root)
    assert files_in(folder) == before


@pytest.mark.parametrize("place", ["prepared", "out"])
def test_a_newer_format_is_refused(frame, root, place):
    prepare(frame, root, root / place)
    (folder,) = (root / place).glob("*/*")
    (folder / generations.RECORD).write_text('{"format": 6}')
    (folder / identity.NOTES).write_bytes(b"a newer format of the notes")
    before = files_in(root)
    with pytest.raises(UserError) as raised:
        prepare(frame, root, root / place)
    assert str(raised.value) == (
        f"The prepared data in {folder} has format 6, but this version of "
        "mixer_jax reads only formats up to 5; install a newer version, or "
        "set the config's data.prepared to another folder."
    )
    assert files_in(root) == before
    # Another folder can be used, as the message says.
    want = contents(pipeline.FileSource(frame, root))
    assert contents(prepare(frame, root, root / "another")) == want


def test_versions_of_another_table_are_kept(frame, root):
    """This holds even if both tables once had the same rows."""
    one, two = frame.copy(), frame.copy()
    one.attrs["table"], two.attrs["table"] = "one.csv", "two.csv"
    build.prepare(one, root)
    edited = build.prepare(one.assign(group="h"), root)
    same = build.prepare(two, root)
    assert same.folder.parent == edited.folder.parent
    del edited
    same.remove_others()
    assert len(generations_of(root)) == 2
