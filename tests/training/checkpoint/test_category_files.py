"""Category IDs are memory-mapped, even those in a bucket."""

import pytest

from mixer_jax.runtime import identity, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import strings
from mixer_jax.training.checkpoint import category_files

IDS = ["a", "größe ✓", "z\n"]
HASH = identity.hash_names(IDS)


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    if request.param == "local":
        return tmp_path
    return paths.make(f"{request.getfixturevalue('bucket')}/run")


@pytest.mark.parametrize("recorded", [HASH, ""])
def test_written_ids_are_read_back(folder, recorded):
    category_files.write(folder, IDS)
    found = category_files.read(folder, recorded)
    assert isinstance(found, strings.Strings)
    assert list(found) == IDS
    category_files.write(folder, found)
    assert list(category_files.read(folder, recorded)) == IDS


def test_changed_ids_are_noticed(folder):
    category_files.write(folder, [*IDS, "zz"])
    with pytest.raises(UserError, match=r"arrow is missing or damaged .*chang"):
        category_files.read(folder, HASH)


def test_missing_ids_are_reported(folder):
    with pytest.raises(UserError, match=r"arrow is missing or damaged"):
        category_files.read(folder, HASH)


def test_runs_of_earlier_versions_are_named(tmp_path):
    (tmp_path / "categories.json").write_text('["a", "b"]')
    with pytest.raises(UserError, match=r"earlier version .* Train again"):
        category_files.read(tmp_path, HASH)


@pytest.mark.parametrize("ids", [["b", "a", "b"], ["a", "a"]])
def test_ids_must_be_unique(tmp_path, ids):
    category_files.write(tmp_path, ids)
    with pytest.raises(UserError, match="occurs twice"):
        category_files.read(tmp_path)


def test_unsorted_ids_are_accepted(tmp_path):
    category_files.write(tmp_path, ["b", "a"])
    assert list(category_files.read(tmp_path)) == ["b", "a"]


@pytest.mark.parametrize("content", [b"", b"no arrow", None])
def test_damaged_files_are_named(tmp_path, content):
    category_files.write(tmp_path, IDS)
    path = tmp_path / category_files.FILE
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(UserError, match=f"{path} is missing or damaged"):
        category_files.read(tmp_path)


@pytest.mark.parametrize("left", ["other", "damaged", "none"])
def test_cached_copy_is_used_only_if_it_is_the_same(bucket, monkeypatch, left):
    folder = paths.make(f"{bucket}/run")
    category_files.write(folder, IDS)
    local = paths.cache(folder / category_files.FILE)
    assert list(strings.Strings(local)) == IDS
    if left == "other":
        strings.write(local, ["x"])
    elif left == "damaged":
        local.write_bytes(b"PK")
    else:
        local.unlink()
    assert list(category_files.read(folder, HASH)) == IDS
    # The local copy is not downloaded again.
    (folder / category_files.FILE).unlink()
    assert list(category_files.read(folder, HASH)) == IDS
