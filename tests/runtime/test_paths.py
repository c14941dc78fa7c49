"""Local paths and paths in buckets."""

import pathlib
import sys

import numpy as np
import pytest
import tensorstore

from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError


def test_local_paths_are_pathlib_paths(tmp_path):
    path = paths.make(str(tmp_path))
    assert path == tmp_path
    assert not paths.is_remote(path)
    assert paths.absolute(paths.make("runs")) == pathlib.Path.cwd() / "runs"
    paths.check(path / "none")


def test_a_bucket_keeps_its_name(bucket):
    path = paths.make(f"{bucket}/runs//stage1/")
    assert paths.is_remote(path)
    assert str(path) == f"{bucket}/runs/stage1"
    assert paths.absolute(path) is path
    assert paths.make(path) == path


@pytest.mark.parametrize("name", ["s3://bucket/run", "gs://", "gs:///"])
def test_other_schemes_are_rejected(name):
    with pytest.raises(UserError, match="gs://BUCKET/runs/stage1"):
        paths.make(name)


def test_missing_package_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r'pip install "mixer_jax\[gcs\]"'):
        paths.make("gs://bucket/run")


def test_local_rejects_buckets(tmp_path):
    assert paths.local(str(tmp_path), "An index") == tmp_path
    with pytest.raises(
        UserError, match="An index must be stored on this machine"
    ):
        paths.local("gs://bucket/index", "An index")


def test_files_are_written_listed_and_read(bucket):
    run = paths.make(bucket) / "run"
    paths.make_folder(run)
    large = np.random.default_rng(0).bytes(7_000_000)  # in two parts
    (run / "large").write_bytes(large)
    for number in range(12):
        paths.write(run / f"s{number}" / "config.json", f'"é{number}"')
    assert (run / "large").read_bytes() == large
    found = {path.parent.name for path in run.glob("*/config.json")}
    assert found == {f"s{number}" for number in range(12)}
    text = (run / "s7" / "config.json").read_text(encoding="utf-8")
    assert text == '"é7"'


def test_files_of_other_writers_are_visible(bucket):
    """Earlier listings of the folder are not reused."""
    run = paths.make(bucket) / "run"
    paths.write(run / "a", "")
    assert [path.name for path in run.iterdir()] == ["a"]
    store = tensorstore.KvStore.open(paths.kvstore(run)).result()
    store.write("b", b"1").result()
    assert (run / "b").exists()
    assert [path.name for path in run.iterdir()] == ["a", "b"]


@pytest.mark.parametrize("remote", [False, True])
def test_move_folder_finds_a_free_name(bucket, tmp_path, remote):
    root = paths.make(bucket if remote else tmp_path)
    for name in ("old/4/a", "old/4/deep/b", "aside/4/left"):
        paths.make_folder((root / name).parent)
        paths.write(root / name, name)
    moved = paths.move_folder(root / "old" / "4", root / "aside" / "4")
    assert moved == root / "aside" / "4-2"
    assert (moved / "a").read_text() == "old/4/a"
    assert (moved / "deep" / "b").read_text() == "old/4/deep/b"
    assert (root / "aside" / "4" / "left").read_text() == "aside/4/left"
    assert not (root / "old" / "4").exists()
    again = paths.move_folder(moved, root / "aside" / "4")
    assert again == root / "aside" / "4-3"
    assert paths.move_folder(again, root / "new" / "4") == root / "new" / "4"


def test_check_leaves_a_bucket_unchanged(bucket, cloud):
    paths.check(paths.make(f"{bucket}/run"))
    assert cloud.buckets[bucket.removeprefix("gs://")] == {}


def test_check_rejects_missing_and_read_only_buckets(bucket, cloud):
    with pytest.raises(UserError, match="there is no bucket gs://nowhere;"):
        paths.check(paths.make("gs://nowhere/run"))
    cloud.frozen.add(bucket.removeprefix("gs://"))
    with pytest.raises(UserError, match="/run cannot be written to") as caught:
        paths.check(paths.make(f"{bucket}/run"))
    assert "\n" not in str(caught.value)


def test_errors_of_a_bucket_are_reported(bucket):
    path = paths.make(bucket) / "run"
    with (
        pytest.raises(UserError, match="run cannot be reached: "),
        paths.reaching(path),
    ):
        path.read_bytes()
    with pytest.raises(FileNotFoundError), paths.reaching(pathlib.Path("x")):
        pathlib.Path("x").read_bytes()


def test_cache_folder_is_unique_per_path(bucket, tmp_path):
    folder = paths.cache(paths.make(f"{bucket}/runs/stage2"))
    name = bucket.removeprefix("gs://")
    place = tmp_path / "cache" / "mixer_jax" / "gs" / name
    assert folder == place / "runs" / "stage2"


@pytest.mark.parametrize("sign", [*"[]*?#% &+\n\x01\\", "é"])
def test_check_rejects_special_characters_in_names(bucket, cloud, sign):
    with pytest.raises(UserError, match="Choose another folder in the bucket"):
        paths.check(paths.make(f"{bucket}/a{sign}b/run"))
    assert not cloud.buckets[bucket.removeprefix("gs://")]


def test_plain_paths_are_returned_unchanged(tmp_path, bucket):
    for path in (tmp_path / "a b", paths.make(f"{bucket}/b[1]")):
        paths.make_folder(path)
        assert paths.plain(path) == path
    assert paths.plain(tmp_path / "b[1]") == tmp_path / "b[1]"  # missing


def test_plain_path_leads_to_the_same_folder(tmp_path):
    folder = tmp_path / "b[1]"
    folder.mkdir()
    name = paths.plain(folder)
    assert name == paths.plain(folder)
    assert name.samefile(folder)
    assert not set("[]*?\\") & set(str(name))
    # A new folder with the same name counts as a different folder.
    folder.rmdir()
    folder.mkdir()
    assert paths.plain(folder).samefile(folder)


def test_plain_raises_without_proc(tmp_path, monkeypatch):
    (tmp_path / "b[1]").mkdir()
    monkeypatch.setattr(
        paths.pathlib.Path, "is_dir", lambda path: "[" in str(path)
    )
    with pytest.raises(UserError, match="parsed as a pattern"):
        paths.plain(tmp_path / "b[1]")
