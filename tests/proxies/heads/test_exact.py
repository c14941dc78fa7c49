import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_jax.proxies import interface, row_optimizers


@pytest.mark.parametrize("margin", ["cosface", "arcface", "normface"])
def test_loss_and_gradients_match_the_reference(
    margin, make_head, gradients, reference, assert_close
):
    size = 2.0 if margin == "arcface" else 0.25  # some angles exceed pi
    head = make_head(margin=margin, margin_size=size)
    loss, d_embeddings, d_proxies, _ = gradients(head)
    expected = reference(margin, size)
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


def test_training_matches_dense_sgd(problem, make_head, assert_close):
    head, optimizer = make_head(), row_optimizers.sgd(0.9, 1e-2)
    step = jax.jit(functools.partial(head.step, optimizer))
    dense = optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, 0.9))

    @jax.jit
    def dense_step(proxies, state):
        def loss(proxies):
            z, w = problem.embeddings, proxies[:37]
            z /= jnp.linalg.norm(z, axis=-1, keepdims=True)
            w /= jnp.linalg.norm(w, axis=-1, keepdims=True)
            cosines = z @ w.T
            own = jax.nn.one_hot(problem.labels, 37)
            logits = 8.0 * (cosines - 0.25 * own)
            return optax.softmax_cross_entropy(logits, own).mean()

        updates, state = dense.update(jax.grad(loss)(proxies), state, proxies)
        return optax.apply_updates(proxies, updates), state

    proxies, moments = problem.proxies, optimizer.init(problem.proxies)
    expected, state = problem.proxies, dense.init(problem.proxies)
    for _ in range(5):
        out = step(
            interface.HeadInput(
                proxies=proxies,
                embeddings=problem.embeddings,
                labels=problem.labels,
                key=jax.random.key(0),
                moments=moments,
                learning_rate=0.1,
            )
        )
        proxies, moments = out.proxies, out.moments
        expected, state = dense_step(expected, state)
    assert_close(proxies[:37], expected[:37])
    np.testing.assert_array_equal(proxies[37:], 0)


@pytest.mark.parametrize("num_devices", [1, 4], indirect=True)
def test_full_logits_and_gradients_are_never_materialized(
    problem, make_head, mesh
):
    head, optimizer = make_head(), row_optimizers.sgd(0.9)

    def dense(given):
        def loss(proxies):
            return jnp.mean(jax.nn.logsumexp(given.embeddings @ proxies.T, -1))

        return jax.grad(loss)(given.proxies)

    def matrices(step):
        """Returns the shapes of all f32 matrices in the compiled program."""
        text = (
            jax.jit(step)
            .lower(
                interface.HeadInput(
                    proxies=problem.proxies,
                    embeddings=problem.embeddings,
                    labels=problem.labels,
                    key=jax.random.key(0),
                    moments=optimizer.init(problem.proxies),
                    learning_rate=0.1,
                )
            )
            .compile()
            .as_text()
        )
        shapes = set(re.findall(r"f32\[(\d+),(\d+)\]", text))
        return {tuple(map(int, shape)) for shape in shapes}

    local = len(problem.proxies) // mesh.size
    forbidden = {
        (problem.batch, rows) for rows in (local, len(problem.proxies))
    }
    forbidden |= {shape[::-1] for shape in forbidden}
    assert not matrices(functools.partial(head.step, optimizer)) & forbidden
    if mesh.size == 1:
        assert matrices(dense) & forbidden
