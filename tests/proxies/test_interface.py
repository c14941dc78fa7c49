import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.proxies import row_optimizers, rows
from mixer_jax.proxies.interface import HeadInput
from mixer_jax.runtime import mesh as meshes


@pytest.mark.parametrize("num_devices", [1, 4], indirect=True)
@pytest.mark.parametrize("name", ["exact", "knn"])
def test_model_learns_with_any_head(name, problem, make_head, mesh):
    """Runs the step from the module's docstring on a linear model."""
    head = make_head(name=name, active=1.0)
    optimizer = row_optimizers.sgd(momentum=0.9)
    proxies = rows.init_proxies(jax.random.key(0), 37, 8, mesh)
    moments = optimizer.init(proxies)
    graph = head.build_graph(proxies)
    params = jax.device_put(jnp.eye(8), meshes.replicated(mesh))

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, proxies, moments, graph, batch, labels, key):
        embeddings, pullback = jax.vjp(lambda p: batch @ p, params)
        out = head.step(
            optimizer,
            HeadInput(
                proxies=proxies,
                moments=moments,
                embeddings=embeddings,
                labels=labels,
                graph=graph,
                key=key,
                learning_rate=0.1,
            ),
        )
        (gradient,) = pullback(out.d_embeddings)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return params, out.proxies, out.moments, out.metrics

    history = []
    for seed in range(60):
        key = jax.random.key(seed)
        batch = problem.embeddings, problem.labels, key
        params, proxies, moments, metrics = step(
            params, proxies, moments, graph, *batch
        )
        history.append(jax.device_get(metrics))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["accuracy"] > history[0]["accuracy"]
    assert proxies.sharding.is_equivalent_to(meshes.rows(mesh), 2)
    assert all(np.isfinite(x) for step in history for x in step.values())
