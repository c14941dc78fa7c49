import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.proxies.chunks import Chunks


@pytest.mark.parametrize("length", [1, 5, 12, 13, 700, 1024])
@pytest.mark.parametrize("max_size", [1, 4, 5, 100, 128, 300])
def test_every_row_is_fresh_once(length, max_size):
    chunks = Chunks(length, max_size)
    fresh = [
        np.array(x)[np.array(f)]
        for x, f in map(chunks.positions, range(chunks.number))
    ]
    np.testing.assert_array_equal(np.concatenate(fresh), np.arange(length))
    assert chunks.size <= min(max_size, length)
    if 128 <= max_size < length:
        assert chunks.size % 128 == 0


@pytest.mark.parametrize("max_size", [1, 4, 5, 100])
def test_loop_writes_every_row_once(max_size):
    chunks = Chunks(13, max_size)
    tree = {"a": jnp.arange(13.0), "b": jnp.ones((13, 2))}

    def visit(tree, index):
        part = chunks.read(index, tree)
        return chunks.write(
            index, tree, jax.tree.map(lambda x: 2 * x, part)
        ), None

    out, _ = jax.lax.scan(visit, tree, chunks.indices)
    np.testing.assert_array_equal(out["a"], 2 * np.arange(13))
    np.testing.assert_array_equal(out["b"], np.full((13, 2), 2))
