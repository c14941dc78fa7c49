import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.proxies import imprint, rows
from mixer_jax.runtime import mesh as meshes


def chosen(labels, mask, block):
    """Selects the samples of a block's categories."""
    if block is None:
        return mask
    local = labels % block.rows
    return mask & (block.start <= local) & (local < block.stop)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 100])
def test_proxies_are_the_mean_directions(mesh, size):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3, 8, 4)).astype(np.float32)
    labels = rng.integers(0, 11, (3, 8)).astype(np.int32)
    labels[labels == 5] = 6  # category 5 has no sample
    mask = np.ones((3, 8), bool)
    mask[2, 3:] = False
    proxies = rows.init_proxies(jax.random.key(0), 13, 4, mesh)
    before = np.array(proxies)

    blocks = imprint.blocks(13, size, mesh) if size else [None]
    after = proxies
    for block in blocks:
        sums = imprint.init(13, 4, mesh, block)
        masks = chosen(labels, mask, block)
        for batch in zip(embeddings, labels, masks, strict=True):
            batch = jax.device_put(batch, meshes.rows(mesh))
            sums = imprint.add(sums, *batch, mesh, block)
        after = imprint.finish(sums, after, mesh, block)

    assert after.sharding.is_equivalent_to(meshes.rows(mesh), 2)
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    for category in range(len(before)):
        found = unit[mask & (labels == category)]
        if len(found):
            mean = found.mean(0)
            mean /= np.linalg.norm(mean)
            np.testing.assert_allclose(after[category], mean, atol=1e-5)
        else:
            np.testing.assert_array_equal(after[category], before[category])


def test_zero_mean_keeps_the_proxy():
    mesh = meshes.make_mesh(jax.devices()[:1])
    opposite = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    sums = imprint.add(
        imprint.init(2, 2, mesh),
        opposite,
        jnp.zeros(2, jnp.int32),
        jnp.ones(2, bool),
        mesh,
    )
    before = rows.init_proxies(jax.random.key(0), 2, 2, mesh)
    kept = np.array(before)
    after = imprint.finish(sums, before, mesh)
    np.testing.assert_array_equal(after, kept)


def test_blocks_cover_all_rows_once(mesh):
    for count, size in ((13, 1), (13, 3), (64, 5), (64, 100)):
        blocks = imprint.blocks(count, size, mesh)
        rows = rows_of(blocks)
        assert rows == list(range(meshes.padded_rows(count, mesh) // mesh.size))
        for block in blocks:
            assert block.size <= size
            assert block.offset <= block.start
            assert block.stop <= block.offset + block.size <= block.rows


def rows_of(blocks):
    return [row for b in blocks for row in range(b.start, b.stop)]


def test_samples_of_other_rows_do_not_reach_a_block():
    mesh = meshes.make_mesh(jax.devices()[:2])
    block = imprint.blocks(8, 2, mesh)[1]  # categories 2, 3, 6 and 7
    batch = np.eye(8, dtype=np.float32), np.arange(8, dtype=np.int32)
    batch = jax.device_put((*batch, np.ones(8, bool)), meshes.rows(mesh))
    sums = imprint.add(imprint.init(8, 8, mesh, block), *batch, mesh, block)
    np.testing.assert_array_equal(sums, np.eye(8)[[2, 3, 6, 7]])
