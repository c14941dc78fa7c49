"""Data is identified by its content alone."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer_jax.data.tables import table
from mixer_jax.runtime import identity
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import strings

texts = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(one=st.tuples(texts, texts), other=st.tuples(texts, texts))
def test_hashes_are_equal_only_for_equal_texts(one, other):
    same = identity.hash_texts(*one) == identity.hash_texts(*other)
    assert same == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([["a\0b", "c"]], [["a", "b\0c"]]),
        ([["a"], ["b"]], [["a", "b"], []]),
        ([[""]], [[]]),
        ([["ab", ""]], [["a", "b"]]),
    ],
)
def test_separators_in_texts_change_the_hash(one, other):
    assert identity.hash_texts(*one) != identity.hash_texts(*other)


@pytest.fixture
def frame(tmp_path):
    """Four rows with the images a, b, a and none."""
    for name in "ab":
        (tmp_path / name).write_text(name)
    rows = [
        (str(i), "query", image, "", "c", "", "train")
        for i, image in enumerate(["a", "b", "a", ""])
    ]
    return pd.DataFrame(rows, columns=table.COLUMNS)


def test_hash_does_not_depend_on_the_storage_of_a_frame(frame):
    expected = identity.hash_rows(frame)
    assert identity.hash_rows(frame.astype(object)) == expected
    assert identity.hash_rows(frame.astype("string[pyarrow]")) == expected
    twice = pd.concat([frame, frame], ignore_index=True).astype(str)
    assert identity.hash_rows(twice.iloc[4:]) == expected
    assert identity.hash_rows(twice.iloc[3:7]) != expected
    parts = pd.concat([frame.iloc[:1], frame.iloc[1:]])
    assert identity.hash_rows(parts.astype("string[pyarrow]")) == expected
    identity.hash_rows(frame[:0])


def test_hash_of_names_does_not_depend_on_their_storage(tmp_path, monkeypatch):
    names = ["", "a", "größe ✓", "line\nbreak", "a"]
    want = identity.hash_names(names)
    strings.write(tmp_path / "names.arrow", names)
    stored = strings.Strings(tmp_path / "names.arrow")
    for size in (1, 2, 100):
        monkeypatch.setattr(strings, "_CHUNK", size)
        for same in (names, tuple(names), stored):
            assert identity.hash_names(same) == want
    others = [names[:-1], names[::-1], [*names, ""], ["".join(names)], []]
    assert want not in map(identity.hash_names, others)
    assert identity.hash_names(["ab", "c"]) != identity.hash_names(["a", "bc"])


def test_known_sizes_and_times_are_reused(frame, tmp_path, monkeypatch):
    data = identity.examine(frame, tmp_path)
    assert (data.count, data.images) == (4, ["a", "b"])
    assert data.sizes.tolist() == [1, 1]
    monkeypatch.setattr(identity, "stat", None)
    part = identity.examine(frame.iloc[1:2], tmp_path, data)
    assert part.images == ["b"]
    assert part.times.tolist() == data.times[1:].tolist()


def test_missing_image_is_reported(frame, tmp_path):
    (tmp_path / "b").unlink()
    data = identity.examine(frame, tmp_path)
    assert data.sizes.tolist() == [1, -1]
    with pytest.raises(UserError, match="/b is missing"):
        data.require()


def compare(folder, frame, root):
    data = identity.examine(frame, root)
    found = identity.compare(folder, data)
    identity.write_notes(folder, found.notes)
    return found.changed, found.known, data.content(found.notes)


def test_only_possibly_changed_images_are_read(frame, tmp_path, monkeypatch):
    read = []
    spy = identity._read_digests
    monkeypatch.setattr(
        identity,
        "_read_digests",
        lambda x, y: (read.append([p.name for p in x]), spy(x, y))[1],
    )
    (tmp_path / "notes").mkdir()
    at = tmp_path / "notes", frame, tmp_path
    first = compare(*at)
    assert first[:2] == ([], False)
    assert compare(*at) == ([], True, first[2])
    os.utime(tmp_path / "b", ns=(1, 1))
    assert compare(*at) == ([], True, first[2])
    (tmp_path / "b").write_text("x")
    changed, known, content = compare(*at)
    assert (changed, known) == (["b"], True)
    assert content != first[2]
    # Notes stay with their images if the order or the set of images changes.
    (tmp_path / "c").write_text("c")
    frame["image"] = ["c", "b", "a", ""]
    assert compare(*at)[:2] == ([], False)
    assert read == [["a", "b"], [], ["b"], ["b"], ["c"]]


@pytest.mark.parametrize("content", [b"", b"x", b"\x93NUMPY\1"])
def test_damaged_notes_are_ignored(frame, tmp_path, content):
    (tmp_path / identity.NOTES).write_bytes(content)
    assert len(identity.read_notes(tmp_path)) == 0
    assert compare(tmp_path, frame, tmp_path)[1] is False
    assert compare(tmp_path, frame, tmp_path)[1] is True


def test_folder_hash_depends_on_names_and_contents(tmp_path):
    assert identity.hash_folder(tmp_path / "none") == ""
    folder = tmp_path / "f"
    folder.mkdir()
    hashes = {identity.hash_folder(folder)}
    size = 3 * identity._EDGE
    (folder / "a.safetensors").write_bytes(b"a" * size)
    hashes.add(identity.hash_folder(folder))
    for place in (0, size - 1):
        with open(folder / "a.safetensors", "r+b") as file:
            file.seek(place)
            file.write(b"b")
        hashes.add(identity.hash_folder(folder))
    (folder / "a.safetensors").rename(folder / "b.safetensors")
    hashes.add(identity.hash_folder(folder))
    assert len(hashes) == 5
    (folder / "README.md").write_text("is not read")
    assert identity.hash_folder(folder) in hashes
    file = identity.hash_folder(folder / "b.safetensors")
    assert file not in hashes | {""}


def test_digests_are_those_of_the_image_bytes(frame, tmp_path):
    data = identity.examine(frame, tmp_path)
    found = identity.compare(tmp_path, data).notes["digest"]
    expected = [identity.digest(b"a"), identity.digest(b"b")]
    np.testing.assert_array_equal(found, expected)


def test_kept_digests_are_those_of_unchanged_bytes(tmp_path, monkeypatch):
    names = ["same", "touched", "edited", "longer", "lost", "new"]
    for name in names[:-1]:
        (tmp_path / name).write_bytes(name.encode())
    cells = dict.fromkeys(table.COLUMNS, "")
    rows = pd.DataFrame([cells | {"image": name} for name in names])
    before = identity.examine(rows[:-1], tmp_path)
    identity.write_notes(tmp_path, identity.compare(tmp_path, before).notes)
    os.utime(tmp_path / "touched", ns=(1, 1))
    (tmp_path / "edited").write_bytes(b"edits.")
    os.utime(tmp_path / "edited", ns=(1, 1))
    (tmp_path / "longer").write_bytes(b"much longer")
    (tmp_path / "lost").unlink()
    (tmp_path / "new").write_bytes(b"new")
    read, spy = [], identity._read_digests
    monkeypatch.setattr(
        identity,
        "_read_digests",
        lambda paths, strict: (read.extend(paths), spy(paths, strict))[1],
    )
    data = identity.examine(rows, tmp_path)
    found = identity.kept_digests(tmp_path, data)
    assert [path.name for path in read] == ["touched", "edited"]
    contents = [b"same", b"touched", b"edits."]
    wanted = [identity.digest(content) for content in contents]
    np.testing.assert_array_equal(found[:3], wanted)
    assert not found[3:].any()
