import jax
import numpy as np

from mixer_jax.proxies import interface


def test_knn_activates_the_neighbors_of_the_batch(
    problem, make_head, categories
):
    problem.batch = 8  # all positives fit into the active rows
    head = make_head(name="knn", active=0.9, uniform=0.0, neighbors=2)
    graph = head.build_graph(problem.proxies)
    rows = head.select(
        interface.HeadInput(
            problem.proxies,
            problem.embeddings[-8:],
            problem.labels[-8:],
            jax.random.key(0),
            graph,
        )
    )
    labels = np.array(problem.labels[-8:])
    active = set(categories(rows))
    assert set(labels) <= active
    assert set(np.array(graph)[labels].ravel()) <= active
