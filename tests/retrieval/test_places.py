"""Paths stored in an index."""

import pathlib
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixer_jax.retrieval import places
from mixer_jax.runtime import paths

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\0"),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", "..") and "://" not in name)
quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quick
@given(tree=NAMES, moved=NAMES, target=NAMES, folder=NAMES)
def test_folders_moved_together_are_found(
    tmp_path, tree, moved, target, folder
):
    root, there = tmp_path / "a" / tree, tmp_path / "b" / moved
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    (root / "targets" / target).mkdir(parents=True)
    (root / folder).mkdir(exist_ok=True)
    names = places.save(root / "targets" / target, root / folder)
    assert places.load(names, root / folder)[0] == root / "targets" / target
    there.parent.mkdir()
    root.rename(there)
    assert places.load(names, there / folder)[0] == there / "targets" / target
    # The names do not contain the original location.
    assert not any(str(tmp_path) in name for name in names)


@quick
@given(
    there=st.sets(NAMES, max_size=5),
    gone=st.sets(NAMES, max_size=5),
    folder=NAMES,
)
def test_missing_files_are_listed(tmp_path, there, gone, folder):
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    (tmp_path / "data" / folder).mkdir(parents=True)
    for name in there:
        (tmp_path / "data" / folder / name).touch()
    names = [f"{folder}/{name}" for name in sorted(there | gone)]
    expected = [f"{folder}/{name}" for name in sorted(gone - there)]
    assert places.missing(tmp_path / "data", names) == expected


def test_folders_and_broken_links_count_as_missing(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "good").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    names = ["file", "good", "folder", "broken", "folder/../file", "no/file"]
    found = places.missing(tmp_path, [*names, str(tmp_path / "file")])
    assert found == ["folder", "broken", "no/file"]


def test_buckets_are_stored_as_absolute_paths(tmp_path, bucket):
    path = paths.make(f"{bucket}/runs/stage1")
    assert places.save(path, tmp_path) == [str(path)]
    assert places.load([str(path)], tmp_path) == [path]


def test_paths_are_tried_with_and_without_links(tmp_path):
    (tmp_path / "disk" / "index").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "index")
    names = places.save(tmp_path / "run", tmp_path / "link")
    for folder in (tmp_path / "link", tmp_path / "disk" / "index"):
        assert tmp_path / "run" in places.load(names, folder)


@pytest.mark.parametrize("names", [[1], [""], None, {"a": 1}, ""])
def test_invalid_paths_raise_an_error(names):
    with pytest.raises(ValueError, match="paths"):
        places.load(names, pathlib.Path("x"))


def test_missing_pictures_are_counted(tmp_path):
    (tmp_path / "a").touch()
    message = places.check_images(tmp_path, ["a", "b", "c"])
    assert message.startswith("2 of 3 pictures are missing in")
    assert "such as b;" in message
    assert places.check_images(tmp_path, ["a"]) == ""
