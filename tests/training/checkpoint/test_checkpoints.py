"""Saving checkpoints, and restoring them onto any number of devices."""

import contextlib
import gc
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies
from orbax.checkpoint._src.serialization import ocdbt_utils

from mixer_jax.runtime import command
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import (
    category_files,
    checksums,
    orbax_messages,
    row_files,
    row_loading,
    workdir,
)
from mixer_jax.training.checkpoint import checkpoints as checkpoints_lib
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.state import TrainState

COUNT, DIM = 10, 4


def make_state(num_devices, dim=DIM, step=3):
    """A state of ten categories; proxy row i is i + 1, and padding is 0."""
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    rows = mesh_lib.padded_rows(COUNT, mesh)
    proxies = np.arange(1.0, rows + 1, dtype=np.float32)[:, None]
    proxies = np.where(proxies <= COUNT, proxies, 0) * np.ones((1, dim))
    proxies = proxies.astype(np.float32)
    state = TrainState(
        step=jnp.int32(step),
        skipped=jnp.int32(1),
        params={"layer": {"kernel": np.full((2, dim), 7.0, np.float32)}},
        batch_stats={"mean": np.full((3,), 5.0, np.float32)},
        opt_state=(
            optax.EmptyState(),
            optax.TraceState({"mu": np.full((2,), 6.0, np.float32)}),
        ),
        proxies=proxies,
        proxy_state=-proxies,
        graph=np.ones((rows, 2), np.int32),
    )
    return jax.device_put(state, state_lib.shardings(state, mesh)), mesh


def save(folder, state, step=3, position=None):
    with checkpoints_lib.Checkpoints(folder) as checkpoints:
        checkpoints.save(step, state, position or {"next": 17})


def restore(folder, state, mesh, say=print):
    with checkpoints_lib.Checkpoints(folder, keep=3) as checkpoints:
        return checkpoints.restore(state_lib.abstract(state, mesh), say)


def load_proxies(folder, mesh):
    shape = mesh_lib.padded_rows(COUNT, mesh), DIM
    empty = jnp.zeros(shape, device=mesh_lib.rows(mesh))
    return row_loading.load_proxies(folder, empty, np.arange(COUNT))


@pytest.mark.parametrize("size", [1, 2**20])
def test_bucket_objects_have_the_target_size(bucket, cloud, monkeypatch, size):
    monkeypatch.setattr(row_files, "OBJECT", size)
    monkeypatch.setattr(row_files, "CHUNK", 2**12)
    monkeypatch.setattr(row_files, "SMALLEST", 1)
    state, mesh = make_state(1, dim=1024)
    # Use noise: compressible chunks would be stored in the index itself.
    noise = jax.random.normal(jax.random.key(0), state.proxies.shape)
    state = state.replace(proxies=jax.device_put(noise, mesh_lib.rows(mesh)))
    save(f"{bucket}/run", state)
    found, _ = restore(f"{bucket}/run", state, mesh)
    np.testing.assert_array_equal(found.proxies, state.proxies)
    objects = cloud.buckets[bucket.removeprefix("gs://")]
    data = [name for name in objects if "/3/proxies/ocdbt" in name]
    # Ten single-row chunks, and the indexes.
    assert len(data) >= 12 if size == 1 else len(data) < 6


@pytest.mark.parametrize("after", [1, 2, 4, 8])
@pytest.mark.parametrize("before", [1, 8])
def test_restore_works_on_any_number_of_devices(tmp_path, before, after):
    state, _ = make_state(before)
    save(tmp_path, state)
    wanted, mesh = make_state(after)
    found, position = restore(tmp_path, wanted, mesh)
    assert position == {"next": 17}
    assert found.proxies.shape == wanted.proxies.shape
    for field in ("proxies", "proxy_state"):
        np.testing.assert_array_equal(
            getattr(found, field), getattr(wanted, field)
        )
    np.testing.assert_array_equal(found.graph[:COUNT], wanted.graph[:COUNT])
    for field in ("step", "skipped", "params", "batch_stats", "opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal,
            getattr(found, field),
            getattr(wanted, field),
        )
    for got, want in zip(
        jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
    ):
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_average_is_used_for_inference_and_both_are_restored(tmp_path):
    state, mesh = make_state(2)
    frozen = {"kernel": np.full((2, 3), 9.0, np.float32)}
    average = {"layer": {"kernel": np.full((2, DIM), 8.0, np.float32)}}
    state = state.replace(
        params=state.params | {"frozen": frozen}, average=average
    )
    state = jax.device_put(state, state_lib.shardings(state, mesh))
    save(tmp_path, state)
    found, _ = restore(tmp_path, state, mesh)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    wanted = state_lib.abstract(state, mesh).variables
    used = checkpoints_lib.load_variables(tmp_path, wanted)
    expected = average | {"frozen": frozen}
    jax.tree.map(np.testing.assert_array_equal, used["params"], expected)


@contextlib.contextmanager
def folder_named(name):
    """A new folder with any name allowed by the file system."""
    with tempfile.TemporaryDirectory() as root:
        # Folders that the name could match if treated as a pattern.
        for other in ("1", "a", "b1", "x"):
            (pathlib.Path(root) / other).mkdir()
        yield pathlib.Path(root) / name


NAMES = strategies.text(
    strategies.characters(exclude_characters="/\0", codec="utf-8"),
    min_size=1,
    max_size=60,
).filter(lambda name: name not in (".", ".."))
PATTERNS = strategies.text("[]*?{}!-\\%#:~$'\" \n.ab1", min_size=1, max_size=8)


@pytest.mark.slow
@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(NAMES | PATTERNS)
@hypothesis.example("b[1]")
@hypothesis.example("[v2]")
@hypothesis.example("**")
@hypothesis.example("?")
@hypothesis.example("a\\b")
@hypothesis.example("a\\")
@hypothesis.example("gs:")
def test_any_workdir_name_can_be_saved_and_read(name):
    hypothesis.assume(name.strip(".") or len(name) > 2)
    state, mesh = make_state(1)
    with folder_named(name) as folder:
        save(folder, state)
        assert workdir.latest_step(folder) == 3
        found, position = restore(folder, state, mesh)
        assert position == {"next": 17}
        np.testing.assert_array_equal(found.proxies, state.proxies)
        ids = [str(row) for row in range(COUNT)]
        category_files.write(folder, ids)
        blocks = row_files.open_proxies(folder).blocks()
        np.testing.assert_array_equal(
            np.concatenate(list(blocks)), state.proxies[:COUNT]
        )
        # Nothing was written anywhere else.
        others = [path for path in folder.parent.iterdir() if path != folder]
        assert not [path for other in others for path in other.iterdir()]


def test_non_utf8_name_is_rejected(tmp_path):
    with pytest.raises(UserError, match="not valid UTF-8"):
        checkpoints_lib.Checkpoints(tmp_path / "\udcff")


def test_errors_name_the_folder_as_given(tmp_path):
    folder = tmp_path / "b[1]"
    state, mesh = make_state(1)
    save(folder, state)
    checkpoint = folder / workdir.CHECKPOINTS / "3"
    (checkpoint / checksums.FILE).unlink()
    shutil.rmtree(checkpoint / "proxies" / "d")
    with pytest.raises(UserError) as caught:
        restore(folder, state, mesh)
    assert str(folder) in str(caught.value)
    assert "/proc/self" not in str(caught.value)


@pytest.fixture
def lost_files(monkeypatch):
    """Makes Orbax merge no files, as if it had found none."""

    async def merge(*_, **__):
        pass

    monkeypatch.setattr(ocdbt_utils, "merge_ocdbt_per_process_files", merge)


def test_save_that_lost_a_file_raises_an_error(tmp_path, lost_files):
    state, _ = make_state(1)
    with (
        pytest.raises(UserError, match=r"checkpoints/3 cannot be read.*model"),
        checkpoints_lib.Checkpoints(tmp_path) as saved,
    ):
        assert saved.save(3, state, {})


def test_no_save_starts_after_one_that_lost_a_file(tmp_path, lost_files):
    state, _ = make_state(1)
    with checkpoints_lib.Checkpoints(tmp_path) as saved:
        saved.save(3, state, {})
        with pytest.raises(UserError, match="checkpoints/3 cannot be read"):
            saved.save(6, state, {})
    assert workdir.latest_step(tmp_path) == 3


def test_save_without_a_folder_raises_an_error(tmp_path, monkeypatch):
    state, _ = make_state(1)
    manager = checkpoints_lib.ocp.CheckpointManager
    monkeypatch.setattr(manager, "save", lambda *_, **__: True)
    with (
        pytest.raises(UserError, match="the folder does not exist"),
        checkpoints_lib.Checkpoints(tmp_path) as saved,
    ):
        saved.save(3, state, {})


def test_saves_when_due_and_keeps_the_latest(tmp_path):
    state, _ = make_state(2)
    with checkpoints_lib.Checkpoints(tmp_path, every=2, keep=2) as saved:
        due = [saved.save(step, state, {}) for step in range(1, 8)]
        assert saved.save(7, state, {}, force=True)
        assert not saved.save(7, state, {}, force=True)  # saved already
    assert due == [False, True] * 3 + [False]
    assert workdir.latest_step(tmp_path) == 7
    kept = sorted(p.name for p in (tmp_path / workdir.CHECKPOINTS).iterdir())
    assert kept == ["6", "7"]


def test_checkpoint_is_kept_until_its_checksums_are_written(
    tmp_path, monkeypatch
):
    existing, write = [], checksums.write

    def write_slowly(folder):
        time.sleep(0.3)
        existing.append((folder.name, folder.is_dir()))
        write(folder)

    monkeypatch.setattr(checksums, "write", write_slowly)
    state, _ = make_state(2)
    with checkpoints_lib.Checkpoints(tmp_path, keep=1) as saved:
        for step in (1, 2, 3):
            saved.save(step, state, {})
    assert existing == [("1", True), ("2", True), ("3", True)]


def test_different_shapes_are_listed_by_path(tmp_path):
    save(tmp_path, make_state(2)[0])
    wanted, mesh = make_state(2, dim=5)
    different = r"params/layer/kernel: \(2, 4\) saved, \(2, 5\) expected"
    with pytest.raises(UserError, match=different):
        restore(tmp_path, wanted, mesh)


def test_different_trees_are_listed_by_path(tmp_path):
    save(tmp_path, make_state(2)[0])
    wanted, mesh = make_state(2)
    wanted = wanted.replace(params={"other": wanted.params["layer"]})
    with pytest.raises(UserError) as caught:
        restore(tmp_path, wanted, mesh)
    assert "params/layer/kernel: (2, 4) saved, absent" in str(caught.value)
    assert "params/other/kernel: absent saved, (2, 4)" in str(caught.value)


def test_error_names_the_damaged_checkpoint(tmp_path):
    # One array on one device: Orbax waits only for the first read that fails,
    # and the others would log errors later.
    state, mesh = make_state(1)
    save(tmp_path, state)
    folder = tmp_path / workdir.CHECKPOINTS / "3"
    for name in ("d", "ocdbt.process_0"):
        shutil.rmtree(folder / "proxies" / name)
    with pytest.raises(UserError, match=r"3 is damaged.*Delete that folder"):
        restore(tmp_path, state, mesh)


def largest(folder):
    """Returns the largest proxy file."""
    files = (path for path in (folder / "proxies").rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip_bit(folder):
    """Flips one bit in the middle of a file."""
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_file(folder):
    (folder / "iterator" / "metadata").unlink()


def copy_other_step(folder):
    """Replaces a checkpoint with that of another step."""
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("3"), folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_bit, "differs from its checksum"),
        (truncate, "bytes"),
        (remove_file, "is missing"),
        (copy_other_step, "it is the checkpoint of step 3"),
    ],
)
def test_restore_falls_back_to_the_previous_checkpoint(
    tmp_path, damage, message
):
    state, mesh = make_state(4)
    with checkpoints_lib.Checkpoints(tmp_path, keep=3) as saved:
        for step in (3, 6):
            saved.save(step, state, {"next": step})
    damage(tmp_path / workdir.CHECKPOINTS / "6")
    messages = []
    with checkpoints_lib.Checkpoints(tmp_path, keep=3) as saved:
        found, position = saved.restore(
            state_lib.abstract(state, mesh), messages.append
        )
        assert position == {"next": 3}
        np.testing.assert_array_equal(found.proxies, state.proxies)
        # The run saves the step again.
        assert saved.save(6, state, {"next": 7})
    (sentence,) = messages
    assert message in sentence
    assert f"It was moved to {tmp_path / workdir.DAMAGED / '6'}" in sentence
    assert (tmp_path / workdir.DAMAGED / "6" / "proxies").is_dir()
    assert workdir.latest_step(tmp_path) == 6


def empty_metadata(folder):
    (folder / "_CHECKPOINT_METADATA").write_text("")


def remove_metadata(folder):
    (folder / "_CHECKPOINT_METADATA").unlink()


def truncate_index(folder):
    path = folder / "model" / "manifest.ocdbt"
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize(
    "damage", [empty_metadata, remove_metadata, truncate_index, truncate]
)
def test_libraries_log_nothing_about_damage(tmp_path, damage, capfd, caplog):
    """The run was killed before writing the checksums."""
    state, mesh = make_state(2)
    with checkpoints_lib.Checkpoints(tmp_path, keep=3) as saved:
        for step in (3, 6):
            saved.save(step, state, {"next": step})
    folder = tmp_path / workdir.CHECKPOINTS / "6"
    (folder / checksums.FILE).unlink()
    damage(folder)
    restore(tmp_path, state, mesh, lambda text: None)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_no_intact_checkpoint_raises_an_error(tmp_path):
    state, mesh = make_state(2)
    save(tmp_path, state)
    flip_bit(tmp_path / workdir.CHECKPOINTS / "3")
    with pytest.raises(
        UserError, match=r"3 is damaged.*checksum.*no other checkpoint. Delete"
    ):
        restore(tmp_path, state, mesh)
    assert (tmp_path / workdir.CHECKPOINTS / "3").is_dir()


def test_partial_checkpoint_is_ignored(tmp_path):
    save(tmp_path, make_state(2)[0])
    folder = tmp_path / workdir.CHECKPOINTS
    (folder / "6.orbax-checkpoint-tmp").mkdir()
    assert workdir.latest_step(tmp_path) == 3


@pytest.fixture
def toy_state(tmp_path, toy, tiny_config):
    """The state of a run of the toy model, saved at step 5."""
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    model = toy.make_model(tiny_config.model, jnp.dtype("float32"))
    variables = toy.init_variables(model, tiny_config, jax.random.key(3))
    state = make_state(2)[0].replace(
        params=variables["params"], batch_stats=variables["batch_stats"]
    )
    state = jax.device_put(state, state_lib.shardings(state, mesh))
    save(tmp_path, state, step=5)
    workdir.prepare(tmp_path, tiny_config, ["a", "b"])
    return state


def test_load_model(tmp_path, toy_state, tiny_config):
    trained = checkpoints_lib.load_model(tmp_path)
    assert (trained.step, list(trained.category_ids)) == (5, ["a", "b"])
    assert trained.config == tiny_config
    jax.tree.map(
        np.testing.assert_array_equal, trained.variables, toy_state.variables
    )


def test_flipped_bit_is_detected_on_read(tmp_path, tiny_config):
    state, mesh = make_state(2)
    save(tmp_path, state)
    workdir.prepare(tmp_path, tiny_config, [f"c{i}" for i in range(COUNT)])
    flip_bit(tmp_path / workdir.CHECKPOINTS / "3")
    with pytest.raises(UserError, match=r"3 is damaged.*checksum"):
        load_proxies(tmp_path, mesh)


def test_renamed_checkpoint_is_detected_on_read(tmp_path, toy, tiny_config):
    state, _ = make_state(1)
    workdir.prepare(tmp_path, tiny_config, list("abcdefghij"))
    save(tmp_path, state, 3)
    shutil.move(tmp_path / "checkpoints" / "3", tmp_path / "checkpoints" / "6")
    assert not checkpoints_lib.is_whole(tmp_path, 6)
    for read in (row_files.open_proxies, checkpoints_lib.load_model):
        with pytest.raises(
            UserError, match=r"6 is damaged.*the checkpoint of step 3"
        ):
            read(tmp_path)


def test_model_step_is_that_of_the_checkpoint_read(
    tmp_path, toy_state, monkeypatch
):
    """The run saves another checkpoint while one is being read."""
    real = workdir.trained_step

    def trained_step(folder):
        step = real(folder)
        save(tmp_path, toy_state, step=6)
        return step

    monkeypatch.setattr(workdir, "trained_step", trained_step)
    assert checkpoints_lib.load_model(tmp_path).step == 6


def test_folder_without_a_model_raises_an_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint of a trained model"):
        checkpoints_lib.load_model(tmp_path)


@pytest.mark.parametrize("last", [6, 9])
def test_full_disk_raises_one_error(disk, last, capfd, monkeypatch):
    """The error is raised by the next save, or by closing."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    orbax_messages.hide()
    state, _ = make_state(1, dim=2**12)
    noise = jax.random.normal(jax.random.key(0), state.proxies.shape)
    state = state.replace(proxies=noise, proxy_state=-noise)
    # There is room for one checkpoint, but not for two.
    subprocess.run(["mount", "-o", "remount,size=700k", disk], check=True)

    def save_all():
        with checkpoints_lib.Checkpoints(disk / "run") as checkpoints:
            for step in range(3, last + 1, 3):
                checkpoints.save(step, state, {})

    with pytest.raises(UserError) as caught:
        save_all()
    gc.collect()
    assert "the disk is full" in str(caught.value)
    assert "checkpoint of step 3 is intact" in str(caught.value)
    assert capfd.readouterr() == ("", "")
    names = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
    assert names == ["3"]


def test_reader_switches_to_a_newer_checkpoint(tmp_path, monkeypatch):
    """The run saves a newer checkpoint and removes the one being read."""
    state, mesh = make_state(2)
    save(tmp_path, state)
    workdir.prepare(tmp_path, config_lib.defaults(), list("abcdefghij"))
    real, newer = checksums.check, [5]

    def check(folder, items=()):
        wrong = real(folder, items)
        shutil.rmtree(folder)
        while newer:
            save(tmp_path, state, step=newer.pop())
            monkeypatch.setattr(checksums, "check", real)
        return wrong

    monkeypatch.setattr(checksums, "check", check)
    proxies = load_proxies(tmp_path, mesh)
    np.testing.assert_array_equal(proxies, state.proxies)
    monkeypatch.setattr(checksums, "check", check)
    with pytest.raises(UserError, match="Run this command again") as caught:
        load_proxies(tmp_path, mesh)
    assert command.explain(caught.value).code == command.CRASHED
