import dataclasses
import json

import pytest

from mixer_jax.retrieval.sharded import layout
from mixer_jax.runtime.errors import NewerFormatError, UserError
from mixer_jax.runtime.ownership import folder_lock

SETTINGS = layout.Settings("f" * 32, 4, 3, 1000, 5, 8, 2)
SHARD = layout.Shard("query", 2, 5, 50, "key")


def test_names_follow_the_role_and_the_number():
    assert SHARD.name == "queries/part-00002.parquet"
    assert SHARD.rows_name == ".work/rows/queries-00002.parquet"
    assert SHARD.result_name == ".work/done/queries-00002.json"


def test_new_empty_and_own_folders_are_accepted(tmp_path):
    layout.check(tmp_path / "new")
    layout.check(tmp_path)
    with folder_lock.hold(tmp_path, "--out"):
        layout.check(tmp_path)
    layout.begin(tmp_path, SETTINGS)
    (tmp_path / "notes.txt").write_text("mine")
    layout.check(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "D": 2}'])
def test_other_folders_are_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"such as 'manifest\.json'; choose"):
        layout.check(tmp_path)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        layout.check(tmp_path / "file")


def test_later_runs_use_the_first_number_of_rows_per_device(tmp_path):
    assert layout.begin(tmp_path, SETTINGS) == SETTINGS
    other = dataclasses.replace(SETTINGS, device_rows=4)
    assert layout.begin(tmp_path, other) == SETTINGS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0"}, "another model"),
        ({"shard_rows": 6}, "use --shard-rows=5, choose"),
        ({"batch_size": 9}, "use --batch-size=8, choose"),
        ({"max_pixels": 9}, "data.max_pixels=1000"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, message):
    layout.begin(tmp_path, SETTINGS)
    with pytest.raises(UserError, match=message):
        layout.begin(tmp_path, dataclasses.replace(SETTINGS, **change))


def test_another_format_is_refused(tmp_path):
    layout.begin(tmp_path, dataclasses.replace(SETTINGS, format=2))
    with pytest.raises(UserError, match="another format"):
        layout.begin(tmp_path, SETTINGS)
    layout.write_manifest(tmp_path, SETTINGS, [])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    text = json.dumps(manifest | {"format": 2})
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(NewerFormatError, match="has format 2"):
        layout.read_manifest(tmp_path)


def test_results_are_read_back(tmp_path):
    skipped = layout.Skipped(7, "a", "a.png", "empty", ": empty")
    result = layout.Result("key", 4, 9, "s", "t", "i", (skipped,))
    layout.write_result(tmp_path, SHARD, result)
    assert layout.read_result(tmp_path, SHARD) == result
    assert layout.result_names(tmp_path) == {SHARD.result_name}
    path = tmp_path / SHARD.result_name
    for damaged in ("", "{", "[]", '{"key": 3}'):
        path.write_text(damaged)
        assert layout.read_result(tmp_path, SHARD) is None
    path.unlink()
    assert layout.read_result(tmp_path, SHARD) is None


def test_a_missing_or_damaged_manifest_is_reported(tmp_path):
    with pytest.raises(UserError, match="to resume"):
        layout.read_manifest(tmp_path)
    for damaged in ("", "[", '{"format": 1}', '{"format": "x"}'):
        (tmp_path / "manifest.json").write_text(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            layout.read_manifest(tmp_path)
