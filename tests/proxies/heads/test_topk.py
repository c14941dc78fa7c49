import jax
import numpy as np

from mixer_jax.proxies import interface


def test_topk_activates_the_nearest_current_proxies(
    problem, make_head, categories
):
    problem.batch = 8  # all positives fit into the active rows
    head = make_head(name="topk", active=0.9, uniform=0.0, neighbors=2)
    embeddings, labels = problem.embeddings[-8:], problem.labels[-8:]
    rows = head.select(
        interface.HeadInput(
            problem.proxies, embeddings, labels, jax.random.key(0)
        )
    )
    z, w = np.array(embeddings), np.array(problem.proxies[:37])
    cosines = z @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    cosines[np.arange(8), np.array(labels)] = -np.inf
    nearest = np.argsort(-cosines, 1)[:, :2]
    assert set(nearest.ravel()) <= set(categories(rows))
