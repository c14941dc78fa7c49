import functools
import logging

import jax
import numpy as np
import pytest

from mixer_jax.proxies import class_graph, interface, row_optimizers
from mixer_jax.runtime import mesh as meshes


def test_graph_matches_numpy(problem, make_head):
    head = make_head(name="knn", active=1.0)
    graph = head.build_graph(problem.proxies)
    unit = np.array(problem.proxies[:37])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-cosines, 1)[:, :4]
    np.testing.assert_array_equal(graph[:37], expected)
    shape = head.graph_shape
    assert (graph.shape, graph.dtype) == (shape.shape, shape.dtype)
    assert graph.sharding.is_equivalent_to(shape.sharding, 2)


def test_block_size_does_not_change_the_graph(problem, make_head, monkeypatch):
    whole = make_head(name="knn", active=1.0).build_graph(problem.proxies)
    monkeypatch.setattr(class_graph, "_QUERIES", 3)
    monkeypatch.setattr(class_graph, "_ROWS", 4)
    # A different margin gives a different head, which is traced again.
    other = make_head(name="knn", active=1.0, margin="normface")
    blocks = other.build_graph(problem.proxies)
    np.testing.assert_array_equal(whole[:37], blocks[:37])


def test_narrow_products_are_rescored_in_f32(problem, mesh, make_head):
    """Neighbors with equal cosines in bf16 are ordered as in f32."""
    # With this seed, no two cosines differ by less than 1e-6, so rounding in
    # f32 cannot change the order.
    rng = np.random.default_rng(5)
    proxies = np.zeros(problem.proxies.shape, np.float32)
    centers = rng.normal(size=(6, 8))[np.arange(37) % 6]
    proxies[:37] = centers + 0.02 * rng.normal(size=(37, 8))
    proxies = jax.device_put(proxies, meshes.rows(mesh))
    wide, narrow = (
        make_head(name="knn", active=1.0, graph_products=dtype)
        for dtype in ("float32", "bfloat16")
    )
    np.testing.assert_array_equal(
        wide.build_graph(proxies)[:37], narrow.build_graph(proxies)[:37]
    )


@pytest.mark.parametrize("num_devices", [4], indirect=True)
def test_few_categories_have_all_others_as_neighbors(problem, make_head):
    problem.num_categories = 3
    head = make_head(name="knn", active=1.0)
    graph = np.array(head.build_graph(problem.proxies[:4]))
    np.testing.assert_array_equal(np.sort(graph[:3]), [[1, 2], [0, 2], [0, 1]])


@pytest.mark.parametrize("num_devices", [4], indirect=True)
def test_rebuilding_does_not_recompile(problem, make_head, caplog):
    # A head that no other test has compiled.
    head = make_head(name="knn", active=1.0, scale=9.0)
    optimizer = row_optimizers.sgd(0.9)
    step = jax.jit(functools.partial(head.step, optimizer))
    proxies = problem.proxies
    moments = optimizer.init(proxies)
    caplog.set_level(logging.WARNING)
    compiled = []
    with jax.log_compiles():
        for seed in range(3):
            graph = head.build_graph(proxies)
            out = step(
                interface.HeadInput(
                    proxies=proxies,
                    embeddings=problem.embeddings,
                    labels=problem.labels,
                    key=jax.random.key(seed),
                    graph=graph,
                    moments=moments,
                    learning_rate=0.1,
                )
            )
            proxies, moments = out.proxies, out.moments
            compiled.append(
                sum("Finished XLA comp" in m for m in caplog.messages)
            )
    assert compiled[0] >= 2
    assert compiled[0] == compiled[1] == compiled[2]
