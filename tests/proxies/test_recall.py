import jax
import numpy as np
import pytest

from mixer_jax.proxies import interface, recall
from mixer_jax.runtime import mesh as meshes


@pytest.mark.parametrize("k", [1, 10, 100])
def test_recall_matches_numpy(k, problem, mesh):
    rng = np.random.default_rng(1)
    local = len(problem.proxies) // mesh.size
    size = (local + 1) // 2
    active = np.stack(
        [np.sort(rng.permutation(local)[:size]) for _ in range(mesh.size)]
    ).astype(np.int32)
    measured = recall.active_recall(
        jax.device_put(active.ravel(), meshes.rows(mesh)),
        problem.proxies,
        problem.embeddings,
        problem.labels,
        problem.num_categories,
        mesh,
        k,
    )
    z, w = np.array(problem.embeddings), np.array(problem.proxies[:37])
    scores = z @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    scores[np.arange(len(z)), np.array(problem.labels)] = -np.inf
    nearest = np.argsort(-scores, 1)[:, : min(k, 36)]
    found = np.isin(nearest, active + np.arange(mesh.size)[:, None] * local)
    np.testing.assert_allclose(measured, found.mean(), rtol=1e-6)


def test_recall_is_one_with_all_rows_active(problem, make_head, mesh):
    rows = make_head().select(
        interface.HeadInput(
            problem.proxies, problem.embeddings, problem.labels, key=None
        )
    )
    measured = recall.active_recall(
        rows,
        problem.proxies,
        problem.embeddings,
        problem.labels,
        problem.num_categories,
        mesh,
    )
    np.testing.assert_allclose(measured, 1.0)
