"""Checks that a workdir belongs to a run."""

import errno
import json
import os
from pathlib import Path

import pytest

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import strings
from mixer_jax.training.checkpoint import workdir
from mixer_jax.training.config import defaults as config_lib


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A workdir that appears to have a checkpoint."""
    workdir.prepare(tmp_path, config_lib.defaults(), ["a", "b"])
    monkeypatch.setattr(workdir, "latest_step", lambda folder: 3)
    return tmp_path


def test_missing_folder_has_no_step(tmp_path):
    assert workdir.latest_step(tmp_path / "none") is None


def test_error_for_a_curriculum_folder_names_a_stage(tmp_path):
    for stage in ("stage1", "stage2"):
        (tmp_path / stage / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "stage3" / "checkpoints").mkdir(parents=True)
    (tmp_path / "stage4").write_text("")
    with pytest.raises(UserError, match=f"such as {tmp_path}/stage2[.]$"):
        workdir.trained_step(tmp_path)


def test_written_files_are_read_back(started):
    assert workdir.read_config(started) == config_lib.defaults()
    assert list(workdir.read_categories(started)) == ["a", "b"]
    workdir.check_config(started, config_lib.defaults())
    workdir.check_categories(started, ["a", "b"])


def test_keys_added_later_have_their_defaults(started):
    path = started / workdir.CONFIG
    saved = json.loads(path.read_text())
    del saved["watchdog"], saved["head"]["importance"]
    saved["head"]["scale"] = 9
    path.write_text(json.dumps(saved))
    config = config_lib.defaults()
    config.head.scale = 9.0
    assert workdir.read_config(started) == config
    workdir.check_config(started, config)


def test_changed_config_keys_are_listed(started):
    config = config_lib.defaults()
    config.head.margin_size = 0.5
    config.log_every = 1
    with pytest.raises(
        UserError, match=r"another config \(head.margin_size: 0.25 -> 0.5\)"
    ) as caught:
        workdir.check_config(started, config)
    assert "--workdir" in str(caught.value)


def test_changed_categories_are_counted(started):
    with pytest.raises(UserError, match="2 are new, 1 were removed"):
        workdir.check_categories(started, ["a", "c", "d"])


def test_run_without_a_checkpoint_may_change(tmp_path):
    workdir.prepare(tmp_path, config_lib.defaults(), ["a", "b"])
    config = config_lib.defaults()
    config.seed = 5
    workdir.check_config(tmp_path, config)
    workdir.check_categories(tmp_path, ["c"])


@pytest.mark.parametrize("refuses", ["make_folder", "write"])
def test_read_only_folder_raises_an_error(tmp_path, monkeypatch, refuses):
    """The folder may be new or contain an earlier run."""

    def refuse(path, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(workdir.paths, refuses, refuse)
    with pytest.raises(
        UserError,
        match=r"cannot be written to: .*Read-only.* Choose another --workdir",
    ) as caught:
        workdir.prepare(tmp_path, config_lib.defaults(), ["a", "b"])
    assert str(tmp_path) in str(caught.value)


def test_file_in_place_of_a_folder_is_named(tmp_path):
    path = tmp_path / workdir.CHECKPOINTS
    path.touch()
    with pytest.raises(UserError, match=f"{path} is not a folder[.] Choose"):
        workdir.prepare(tmp_path, config_lib.defaults(), ["a", "b"])


def test_features_folder_is_local(bucket, tmp_path):
    config = config_lib.defaults()
    assert workdir.features_folder("run", config) == Path("run/features/0")
    cache = workdir.features_folder(f"{bucket}/run", config)
    assert cache.is_relative_to(tmp_path / "cache")
    config.data.features = "there"
    for place in ("run", f"{bucket}/run"):
        assert workdir.features_folder(place, config) == Path("there/0")


@pytest.mark.parametrize("content", [None, "{"])
def test_damaged_file_is_named(started, content):
    path = started / workdir.CONFIG
    path.unlink()
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"config.json is missing or damaged"):
        workdir.check_config(started, config_lib.defaults())


@pytest.mark.parametrize("content", ["[]", "null", "3", "[" * 100_000])
@pytest.mark.parametrize("name", [workdir.CONFIG, workdir.ORIGIN])
def test_json_of_another_type_counts_as_damaged(started, name, content):
    (started / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name} is missing or damaged"):
        workdir.read_config(started)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (workdir.CONFIG, {"model": 3}),
        (workdir.CONFIG, {"steps": {"a": 3}}),
        (workdir.CONFIG, {"steps": "3"}),
        (workdir.CONFIG, {"data": {"table": None}}),
        (workdir.CONFIG, {"data": {"table": 5}}),
        (workdir.CONFIG, {"data": {"table": "a\0b"}}),
        (workdir.CONFIG, {"data": {"table": "\ud800"}}),
        (workdir.CONFIG, {"data": {"ta.le": "a"}}),
        (workdir.CONFIG, {"data": {"image_size": 0}}),
        (workdir.CONFIG, {"data": {"temperature": 10**400}}),
        (workdir.ORIGIN, {"places": None}),
        (workdir.ORIGIN, {"places": ""}),
        (workdir.ORIGIN, {"places": [1]}),
        (workdir.ORIGIN, {"places": {"data.table": "a"}}),
        (workdir.ORIGIN, {"places": {"data.table": {"given": "a"}}}),
        (workdir.ORIGIN, {"trained": {"samples": 3}}),
    ],
)
def test_invalid_contents_count_as_damaged(started, name, content):
    (started / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{name} is missing or damaged"):
        workdir.read_config(started)


@pytest.mark.parametrize("content", [["a"], ["b", "a"], ["a", "a"], []])
def test_categories_changed_after_training_raise_an_error(started, content):
    strings.write(started / workdir.CATEGORIES, content)
    with pytest.raises(UserError, match=r"categories.arrow is missing or dam"):
        workdir.read_categories(started)


def test_locations_of_unknown_keys_are_ignored(started):
    place = {"given": "a", "absolute": "/a"}
    origin = json.dumps({"places": {"data.tab`e": place}})
    (started / workdir.ORIGIN).write_text(origin)
    assert workdir.read_config(started)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (workdir.CONFIG, '{"model_type": "bert"}'),
        (workdir.CONFIG, '{"format": 1, "fingerprint": "a", "config": {}}'),
        (workdir.CONFIG, "// comment"),
    ],
)
def test_new_run_does_not_overwrite_files_of_other_programs(
    tmp_path, name, content
):
    (tmp_path / name).write_text(content)
    with pytest.raises(
        UserError, match=f"{name} does not belong to a training run.*--workdir"
    ):
        workdir.check_config(tmp_path, config_lib.defaults())
    # Files of a run stopped before its first checkpoint are replaced.
    workdir.prepare(tmp_path, config_lib.defaults(), ["a", "b"])
    workdir.check_config(tmp_path, config_lib.defaults())
