import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.proxies import imprint, rows
from mixer_jax.runtime import mesh as meshes


def test_proxies_are_the_mean_directions(mesh):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3, 8, 4)).astype(np.float32)
    labels = rng.integers(0, 11, (3, 8)).astype(np.int32)
    labels[labels == 5] = 6  # 5 has no sample
    mask = np.ones((3, 8), bool)
    mask[2, 3:] = False
    proxies = rows.init_proxies(jax.random.key(0), 13, 4, mesh)
    before = np.array(proxies)

    sums = imprint.init(13, 4, mesh)
    for batch in zip(embeddings, labels, mask, strict=True):
        batch = jax.device_put(batch, meshes.rows(mesh))
        sums = imprint.add(sums, *batch, mesh)
    after = imprint.finish(sums, proxies)

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
    np.testing.assert_array_equal(imprint.finish(sums, before), kept)
