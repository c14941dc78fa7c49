import jax
import numpy as np

from mixer_jax.proxies import hardest, interface, margins, softmax
from mixer_jax.runtime import mesh as meshes


def test_negatives_are_the_k_nearest_over_all_devices(problem, mesh):
    loss = softmax.Loss(margins.cosface, 0.25, 8.0, 3)

    def find(proxies, embeddings, labels):
        given = interface.HeadInput(proxies, embeddings, labels, key=None)
        batch = softmax.gather(loss, given)
        return hardest.negatives(proxies, batch, 37, 3, loss, False)

    split = jax.P(meshes.AXIS)
    found = jax.shard_map(
        find,
        mesh=mesh,
        in_specs=(split,) * 3,
        out_specs=jax.P(None, meshes.AXIS),
    )(problem.proxies, problem.embeddings, problem.labels)
    z, w = np.array(problem.embeddings), np.array(problem.proxies[:37])
    cosines = z @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    cosines[np.arange(len(z)), np.array(problem.labels)] = -np.inf
    expected = np.sort(np.argsort(-cosines, 1)[:, :3], 1)
    found = np.array(found)
    assert ((found >= 0).sum(1) == 3).all()
    np.testing.assert_array_equal(np.sort(found, 1)[:, -3:], expected)
