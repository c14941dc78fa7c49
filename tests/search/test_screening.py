import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.search import screening


def test_blocks_cover_all_rows_and_are_bounded():
    for count in (1, 7, 8, 1024, 1025, 8192, 8193, 40_000, 118_609):
        for devices in (1, 2, 8):
            block, tile = screening.block_and_tile(count, devices)
            assert tile <= screening._TILE
            assert block <= screening._BLOCK
            assert block % tile == tile % screening.GROUP == 0
            local = -(-count // devices)
            # Each tile is padded by less than a group.
            blocks = -(-local // block)
            spare = blocks * block - local
            assert 0 <= spare < blocks * (block // tile) * screening.GROUP


def test_blocks_are_assigned_round_robin(num_devices, monkeypatch):
    monkeypatch.setattr(screening, "_BLOCK", 64)
    monkeypatch.setattr(screening, "_TILE", 32)
    mesh = make_mesh(jax.devices()[:num_devices])
    rows = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)
    placed = screening.place(rows, mesh, None, jnp.dtype("float32"))
    assert placed.block <= 64
    number = len(placed.whole) // placed.block
    assert number % num_devices == 0
    assert len(placed.whole) <= 1500 + 2 * screening.GROUP * number
    for shard in placed.whole.addressable_shards:
        device = list(mesh.devices.flat).index(shard.device)
        held = np.asarray(shard.data).reshape(-1, placed.block, 8)
        for slot, block in enumerate(held):
            start = (slot * num_devices + device) * placed.block
            wanted = rows[start : start + placed.block]
            np.testing.assert_array_equal(block[: len(wanted)], wanted)
            assert not block[len(wanted) :].any()


def test_maxima_match_the_full_product():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(48, 6)).astype(np.float32)
    others = rng.normal(size=(64, 6)).astype(np.float32)
    forth, back = screening._maxima(rows, 16, others, 32, both=True)
    product = rows @ others.T
    np.testing.assert_allclose(
        forth, product.reshape(48, -1, 8).max(2), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        back, product.T.reshape(64, -1, 8).max(2), rtol=1e-5, atol=1e-6
    )
    alone, nothing = screening._maxima(rows, 16, others, 32, both=False)
    np.testing.assert_array_equal(alone, forth)
    assert nothing is None
