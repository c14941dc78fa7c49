"""Rows are loaded onto the devices in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import row_files, row_loading, workdir
from mixer_jax.training.checkpoint.checkpoints import Checkpoints
from mixer_jax.training.state import TrainState, shardings

COUNT, DIM = 61, 8


@pytest.fixture
def mesh(num_devices):
    return mesh_lib.make_mesh(jax.devices()[:num_devices])


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(COUNT, DIM)).astype("f4")


@pytest.fixture
def store(rows):
    """Saved rows in chunks of 4, with 3 rows of padding."""
    metadata = {"shape": [64, DIM], "chunks": [4, DIM], "dtype": "<f4"}
    store = tensorstore.open(
        {"driver": "zarr", "kvstore": "memory://", "metadata": metadata},
        create=True,
    ).result()
    store[:].write(np.pad(rows, ((0, 3), (0, 0)))).result()
    return store


def make(mesh, count, dtype=jnp.float32):
    rows = mesh_lib.padded_rows(count, mesh)
    return jnp.full((rows, DIM), 9.0, dtype, device=mesh_lib.rows(mesh))


@pytest.mark.parametrize("block", [1, 20 * 4 * DIM, 2**26])
@pytest.mark.parametrize(
    "order", ["grown", "removed", "reordered", "same", "none"]
)
def test_rows_come_from_their_source(
    mesh, rows, store, monkeypatch, block, order
):
    monkeypatch.setattr(row_files, "CHUNK", block)
    rng = np.random.default_rng(1)
    kept = np.arange(90) % 3 < 2
    source = {
        "grown": np.where(kept, np.cumsum(kept) - 1, -1),
        "removed": np.flatnonzero(rng.random(COUNT) < 0.5),
        "reordered": rng.permutation(np.arange(-20, COUNT).clip(-1)),
        "same": np.arange(COUNT),
        "none": np.full(7, -1),
    }[order].astype(np.int32)
    found = row_loading.copy(make(mesh, len(source)), store, source)
    assert found.sharding.is_equivalent_to(mesh_lib.rows(mesh), 2)
    want = np.where(source[:, None] >= 0, rows[source], 9)
    np.testing.assert_array_equal(found[: len(source)], want)
    np.testing.assert_array_equal(found[len(source) :], 9)


def test_rows_are_rounded_to_the_wanted_dtype(mesh, rows, store):
    wide = make(mesh, COUNT)
    narrow = make(mesh, COUNT, jnp.bfloat16)
    source = np.arange(COUNT, dtype=np.int32)
    want = row_loading.copy(wide, store, source).astype(jnp.bfloat16)
    found = row_loading.copy(narrow, store, source)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("count", [50, 64, 100])
def test_loaded_rows_are_truncated_or_padded(mesh, rows, store, count):
    like = make(mesh, count)
    wanted = jax.ShapeDtypeStruct(
        like.shape, like.dtype, sharding=like.sharding
    )
    found = row_loading.load(store, wanted)
    assert found.sharding.is_equivalent_to(like.sharding, 2)
    want = np.zeros(like.shape, "f4")
    want[:COUNT] = rows[: len(want)]
    np.testing.assert_array_equal(found, want[: len(like)])


def test_only_blocks_are_in_memory(mesh, rows, store, monkeypatch):
    """No process reads or transfers all rows at once."""
    monkeypatch.setattr(row_files, "CHUNK", 4 * 4 * DIM)
    sizes = []
    real = row_loading._put

    def put(part, block, place):
        sizes.append(len(block))
        return real(part, block, place)

    monkeypatch.setattr(row_loading, "_put", put)
    source = np.arange(COUNT, dtype=np.int32)
    row_loading.copy(make(mesh, COUNT), store, source)
    assert set(sizes) == {4}
    # Each chunk is read only by the devices that own its rows.
    assert len(sizes) <= 64 // 4 + mesh.size


def test_rows_are_written_in_place(mesh, store):
    given = make(mesh, COUNT)
    before = [s.data.unsafe_buffer_pointer() for s in given.addressable_shards]
    found = row_loading.copy(given, store, np.arange(COUNT, dtype=np.int32))
    after = [s.data.unsafe_buffer_pointer() for s in found.addressable_shards]
    assert after == before


@pytest.fixture
def folder(tmp_path, tiny_config, rows):
    """A run with moments in a nested tree, saved on two devices."""
    mesh = mesh_lib.make_mesh(jax.devices()[:2])
    padded = np.pad(rows, ((0, 1), (0, 0)))
    state = TrainState(
        step=jnp.int32(4),
        skipped=jnp.int32(0),
        params={},
        batch_stats={},
        opt_state={},
        proxies=padded,
        proxy_state=(padded + 1, (), {"count": padded[:, :1] + 2}),
        graph=np.arange(62 * 3, dtype=np.int32).reshape(62, 3),
    )
    state = jax.device_put(state, shardings(state, mesh))
    workdir.prepare(tmp_path, tiny_config, [f"c{i}" for i in range(COUNT)])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state, {}, force=True)
    return tmp_path


def test_all_row_arrays_of_a_state_are_restored(folder, mesh, rows):
    size = mesh_lib.padded_rows(COUNT, mesh)

    def wanted(*row, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(
            (size, *row), dtype, sharding=mesh_lib.rows(mesh)
        )

    item = {
        "proxy_state": (wanted(DIM), (), {"count": wanted(1)}),
        "graph": wanted(3, dtype=jnp.int32),
        "step": None,
    }
    where = folder / workdir.CHECKPOINTS / "4" / "training"
    found = row_loading.load_rows(where, item)
    assert set(found) == {"proxy_state", "graph"}
    moments, empty, counts = found["proxy_state"]
    assert empty == ()
    np.testing.assert_array_equal(moments[:COUNT], rows + 1)
    np.testing.assert_array_equal(counts["count"][:COUNT], rows[:, :1] + 2)
    graph = np.arange(COUNT * 3).reshape(COUNT, 3)
    np.testing.assert_array_equal(found["graph"][:COUNT], graph)


def test_proxies_of_another_run_are_loaded(folder, mesh, rows):
    source = np.array([3, -1, 60, 0], np.int32)
    found = row_loading.load_proxies(folder, make(mesh, 4), source)
    want = np.where(source[:, None] >= 0, rows[source], 9)
    np.testing.assert_array_equal(found[:4], want)
    with pytest.raises(UserError, match=r"proxies: \(62, 8\) saved"):
        row_loading.load_proxies(folder, make(mesh, 4)[:, :5], source)


def test_unreadable_rows_raise_an_error(folder, mesh, monkeypatch):
    def fail(*_):
        raise ValueError("cut")

    monkeypatch.setattr(row_loading, "copy", fail)
    source = np.zeros(4, np.int32)
    with pytest.raises(UserError, match=r"4 is damaged .*\(cut\)"):
        row_loading.load_proxies(folder, make(mesh, 4), source)
