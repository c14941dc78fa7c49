import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.proxies import sparse_sgd


@pytest.mark.parametrize("num_devices", [2], indirect=True)
@pytest.mark.parametrize("chunk", [1, 7, 19, 1000])
def test_the_chunk_s_size_changes_nothing(
    chunk, make_head, gradients, reference, assert_close
):
    loss, d_embeddings, d_proxies, _ = gradients(make_head(chunk=chunk))
    expected = reference()
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


@pytest.mark.parametrize("num_devices", [1, 8], indirect=True)
def test_a_large_scale_stays_finite(make_head, gradients, reference):
    loss, d_embeddings, d_proxies, _ = gradients(make_head(scale=1000.0))
    np.testing.assert_allclose(loss, reference(scale=1000.0)[0], rtol=1e-5)
    assert np.isfinite(d_embeddings).all()
    assert np.isfinite(d_proxies).all()


def test_metrics_are_of_the_plain_cosines(problem, make_head, gradients):
    *_, metrics = gradients(make_head())
    z, w = jax.device_get((problem.embeddings, problem.proxies[:37]))
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    labels, each = jax.device_get(problem.labels), np.arange(len(z))
    cosines = z @ w.T
    target = cosines[each, labels]
    cosines[each, labels] = -2
    nearest = cosines.max(1)
    np.testing.assert_allclose(
        metrics["target_cosine"], target.mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        metrics["negative_cosine"], nearest.mean(), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["accuracy"], (target > nearest).mean())


@pytest.mark.parametrize("num_devices", [2], indirect=True)
def test_embeddings_keep_their_type(problem, make_head):
    step = functools.partial(make_head().step, sparse_sgd.sparse_sgd())
    out = jax.eval_shape(
        step,
        problem.proxies,
        (),
        problem.embeddings.astype(jnp.bfloat16),
        problem.labels,
        None,
        jax.random.key(0),
        0.1,
    )
    assert out.d_embeddings.dtype == jnp.bfloat16
    assert out.loss.dtype == out.proxies.dtype == jnp.float32
