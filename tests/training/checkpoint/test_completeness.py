"""Missing parts of a checkpoint are detected."""

import jax
import pytest

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import checkpoints, completeness, workdir
from mixer_jax.training.state import TrainState

ARRAYS = ("model", "training", "proxies")


def make_state():
    """A state with proxies too large and random to be stored in the index."""
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    proxies = jax.random.normal(jax.random.key(0), (10, 1000))
    state = TrainState(
        step=1,
        skipped=0,
        params={"layer": {"kernel": proxies[:3]}},
        batch_stats={},
        opt_state={},
        proxies=proxies,
        proxy_state={},
        graph=None,
    )
    return jax.device_put(state, state_lib.shardings(state, mesh))


def save(folder):
    with checkpoints.Checkpoints(folder) as saved:
        saved.save(3, make_state(), {"next": 17})
    return paths.make(folder) / workdir.CHECKPOINTS / "3"


def is_needed(name):
    """Returns whether restoring reads this file."""
    index = (".ocdbt", "_METADATA", "iterator/metadata")
    return name.startswith(
        ("model/", "training/", "proxies/", "iterator/")
    ) and (
        (name.endswith(index) and "process_0" not in name)
        or (name.count("/") == 2 and "/d/" in name)
    )


def test_missing_and_truncated_files_are_reported(tmp_path):
    folder = save(tmp_path)
    assert completeness.missing(folder, ARRAYS) == ""
    missed = set()
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        name = str(path.relative_to(folder))
        path.unlink()
        gone = completeness.missing(folder, ARRAYS)
        path.write_bytes(content[: len(content) // 2])
        cut = completeness.missing(folder, ARRAYS)
        path.write_bytes(content)
        assert bool(gone) == bool(cut), name
        if gone:
            assert name.split("/")[0] in gone
            missed.add(name)
    assert {name for name in missed if "ocdbt.process_0" not in name} == {
        name
        for name in (str(path.relative_to(folder)) for path in files)
        if is_needed(name)
    }
    # The large arrays' own files.
    assert any(name.startswith("proxies/ocdbt.process_0/d/") for name in missed)


def test_missing_bucket_object_is_reported(bucket, cloud):
    folder = save(f"{bucket}/run")
    assert completeness.is_written(folder)
    assert completeness.missing(folder, ARRAYS) == ""
    objects = cloud.buckets[bucket.removeprefix("gs://")]
    del objects["run/checkpoints/3/model/manifest.ocdbt"]
    assert "model: " in completeness.missing(folder, ARRAYS)


@pytest.mark.parametrize("there", [True, False])
def test_is_written_needs_the_folder(tmp_path, there):
    if there:
        (tmp_path / "3").mkdir()
    assert completeness.is_written(tmp_path / "3") == there
