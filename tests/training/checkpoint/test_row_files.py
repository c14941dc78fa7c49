"""Rows are saved in chunks and read in blocks."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import strings
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import checksums, row_files, workdir
from mixer_jax.training.checkpoint.checkpoints import Checkpoints


@pytest.fixture
def save_run(tmp_path, tiny_config):
    """Saves a run with proxies f32 [C, D]; returns its workdir."""

    def save(name, proxies, num_devices=1, dtype=jnp.float32):
        count = len(proxies)
        mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
        rows = mesh_lib.padded_rows(count, mesh)
        padded = np.pad(proxies, ((0, rows - count), (0, 0)))
        state = state_lib.TrainState(
            step=jnp.int32(4),
            skipped=jnp.int32(0),
            params={},
            batch_stats={},
            opt_state={},
            proxies=padded.astype(dtype),
            proxy_state=padded,
            graph=None,
        )
        state = jax.device_put(state, state_lib.shardings(state, mesh))
        folder = tmp_path / name
        workdir.prepare(folder, tiny_config, [f"c{i}" for i in range(count)])
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(4, state, {}, force=True)
        return folder

    return save


@pytest.fixture
def proxies():
    return np.random.default_rng(0).normal(size=(61, 8)).astype(np.float32)


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_do_not_depend_on_the_saving_devices(
    save_run, proxies, monkeypatch, num_devices, dtype
):
    folder = save_run("run", proxies, num_devices, dtype)
    want = np.float32(proxies.astype(dtype))
    for chunk in (2**26, 10 * 8 * 4, 1):
        monkeypatch.setattr(row_files, "CHUNK", chunk)
        saved = row_files.open_proxies(folder)
        assert (saved.step, saved.dim) == (4, 8)
        assert list(saved.category_ids) == [f"c{i}" for i in range(61)]
        blocks = list(saved.blocks())
        assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(np.concatenate(blocks), want)
    # A block is never smaller than a chunk.
    assert len(blocks[0]) == -(-61 // num_devices)


def test_rows_are_saved_in_small_chunks(save_run, monkeypatch):
    monkeypatch.setattr(row_files, "CHUNK", 10 * 8 * 4)
    monkeypatch.setattr(row_files, "SMALLEST", 2 * 8 * 4)
    # 32 rows of 32 bytes per device: 8 is the largest divisor up to 10.
    folder = save_run("run", np.ones((63, 8), np.float32), 2)
    blocks = list(row_files.open_proxies(folder).blocks())
    assert [len(block) for block in blocks] == [8] * 7 + [7]


@pytest.mark.parametrize(
    ("rows", "row_bytes", "want"),
    [
        (1_000, 1_024, 1_000),  # All fit.
        (10_000_000, 1_024, 62_500),
        (2_500_000, 1_024, 62_500),
        (10_000_019, 1_024, 10_000_019),  # prime: one chunk, not one per row
        (2 * 1_000_003, 1_024, 1_000_003),
        (100, 2**27, 1),  # A row is larger than a chunk.
    ],
)
def test_chunks_divide_the_rows(rows, row_bytes, want):
    assert row_files.chunk_rows(rows, row_bytes) == want


def test_prime_number_of_rows_is_one_chunk(save_run, monkeypatch):
    monkeypatch.setattr(row_files, "CHUNK", 2**10)
    monkeypatch.setattr(row_files, "SMALLEST", 2**8)
    folder = save_run("run", np.ones((997, 8), np.float32))
    blocks = list(row_files.open_proxies(folder).blocks())
    assert [len(block) for block in blocks] == [997]


def test_inconsistent_files_raise_an_error(save_run, proxies):
    with pytest.raises(UserError, match="no checkpoint"):
        row_files.open_proxies("nowhere")
    folder = save_run("run", proxies)
    ids = folder / workdir.CATEGORIES
    strings.write(ids, [str(i) for i in range(62)])
    with pytest.raises(UserError, match=r"arrow .* changed after training"):
        row_files.open_proxies(folder)
    (folder / workdir.ORIGIN).unlink()  # like a run without a recorded origin
    with pytest.raises(UserError, match=r"62 categories.* 61 proxies"):
        row_files.open_proxies(folder)
    ids.write_text("[")
    with pytest.raises(UserError, match=r"categories.arrow is missing or dam"):
        row_files.open_proxies(folder)


@pytest.mark.parametrize("lost", ["d", "ocdbt.process_0", "manifest.ocdbt", ""])
def test_damaged_checkpoint_raises_an_error(save_run, proxies, lost):
    folder = save_run("run", proxies)
    path = folder / "checkpoints" / "4" / "proxies" / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"4 is damaged.*Delete that folder"):
        list(row_files.open_proxies(folder).blocks())


@pytest.mark.parametrize(
    ("other", "remedy"),
    [
        ("2", "Delete that folder to use the previous checkpoint"),
        ("2.orbax-checkpoint-tmp", "no other checkpoint. Delete .* scratch"),
        ("", "no other checkpoint. Delete that folder to train from scratch"),
    ],
)
def test_remedy_depends_on_other_checkpoints(tmp_path, other, remedy):
    where = tmp_path / "checkpoints" / "4"
    where.mkdir(parents=True)
    (where.parent / other).mkdir(exist_ok=True)
    error = row_files.damaged(paths.make(where), "cut")
    assert re.search(remedy, str(error))


def test_missing_chunk_is_not_read_as_zeros(save_run, proxies):
    folder = save_run("run", proxies, 2)
    store = tensorstore.KvStore.open(
        {
            "driver": "ocdbt",
            "base": f"file://{folder}/checkpoints/4/proxies/",
            "path": "proxies/",
        }
    ).result()
    assert store.list().result() == [b".zarray", b"0.0", b"1.0"]
    store.delete_range(tensorstore.KvStore.KeyRange("1.0", "1.1")).result()
    with pytest.raises(UserError, match="4 is damaged"):
        row_files.open_proxies(folder)
    # Without checksums, the damage is found on reading.
    (folder / "checkpoints" / "4" / checksums.FILE).unlink()
    blocks = row_files.open_proxies(folder).blocks()
    with pytest.raises(UserError, match="4 is damaged"):
        list(blocks)


def test_files_are_at_least_as_large_as_chunks():
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    arrays = {"a": jax.device_put(np.zeros((8, 100)), mesh_lib.rows(mesh))}
    for args, size in (
        (ocp.SaveArgs(), 4 * 100 * 4),  # a device's rows
        (ocp.SaveArgs(chunk_byte_size=1200), 1200),
        (ocp.SaveArgs(chunk_byte_size=400), 1000),
    ):
        assert row_files.file_size(1000, arrays, {"a": args}) == size


def test_flipped_bit_is_detected(save_run, proxies):
    folder = save_run("run", proxies)
    assert next(row_files.open_proxies(folder).blocks()).any()
    step = folder / workdir.CHECKPOINTS / "4"
    files = [path for path in (step / "proxies").rglob("d/*")]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="differs from its checksum"):
        row_files.open_proxies(folder)


def test_removed_checkpoint_is_not_reported_as_damaged(save_run, proxies):
    folder = save_run("run", proxies)
    blocks = row_files.open_proxies(folder).blocks()
    shutil.rmtree(folder / workdir.CHECKPOINTS / "4")
    with pytest.raises(UserError, match=r"was removed while .* Run this"):
        list(blocks)
