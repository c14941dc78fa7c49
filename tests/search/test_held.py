import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.runtime.mesh import AXIS, make_mesh
from mixer_jax.search import held

BLOCKS = 16


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_each_block_is_on_one_device(devices):
    mesh = make_mesh(jax.devices()[:devices])
    rows = held.Held(jnp.zeros((BLOCKS * 8, 2)), block=8, mesh=mesh)

    def local(block):
        mine, slot = rows.holder(block)
        return mine[None], slot[None]

    mine, slot = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=held.WHOLE,
        out_specs=jax.sharding.PartitionSpec(AXIS),
    )(jnp.arange(BLOCKS))
    mine, slot = np.asarray(mine), np.asarray(slot)
    assert (mine.sum(0) == 1).all()
    assert (mine.sum(1) == BLOCKS // devices).all()
    for device in range(devices):
        # Each device stores its blocks contiguously.
        expected = list(range(BLOCKS // devices))
        assert slot[device][mine[device]].tolist() == expected


def test_rows_of_a_group_are_adjacent():
    rows = held.places(jnp.array([2, 0]))
    assert rows.tolist() == [list(range(16, 24)), list(range(8))]
