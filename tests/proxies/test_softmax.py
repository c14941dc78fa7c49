import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.proxies import interface, row_optimizers
from mixer_jax.runtime import mesh as meshes


@pytest.mark.parametrize("num_devices", [2], indirect=True)
@pytest.mark.parametrize("chunk", [1, 7, 19, 1000])
def test_chunk_size_does_not_change_the_result(
    chunk, make_head, gradients, reference, assert_close
):
    loss, d_embeddings, d_proxies, _ = gradients(make_head(chunk=chunk))
    expected = reference()
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


@pytest.mark.parametrize("num_devices", [1, 8], indirect=True)
def test_large_scale_stays_finite(make_head, gradients, reference):
    loss, d_embeddings, d_proxies, _ = gradients(make_head(scale=1000.0))
    np.testing.assert_allclose(loss, reference(scale=1000.0)[0], rtol=1e-5)
    assert np.isfinite(d_embeddings).all()
    assert np.isfinite(d_proxies).all()


def test_metrics_use_cosines_without_margins(problem, make_head, gradients):
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
def test_gradient_has_the_dtype_of_the_embeddings(problem, make_head):
    step = functools.partial(make_head().step, row_optimizers.sgd())
    out = jax.eval_shape(
        step,
        interface.HeadInput(
            proxies=problem.proxies,
            embeddings=problem.embeddings.astype(jnp.bfloat16),
            labels=problem.labels,
            key=jax.random.key(0),
            moments=(),
        ),
    )
    assert out.d_embeddings.dtype == jnp.bfloat16
    assert out.loss.dtype == out.proxies.dtype == jnp.float32


@pytest.mark.parametrize("name", ["exact", "knn"])
def test_only_the_nearest_subcenter_counts(
    name, problem, mesh, make_head, gradients, reference, assert_close
):
    rng = np.random.default_rng(3)
    proxies = rng.normal(size=(len(problem.proxies), 3 * 8)).astype(np.float32)
    proxies[37:] = 0.0
    problem.proxies = jax.device_put(proxies, meshes.rows(mesh))
    head = make_head(name=name, active=1.0, subcenters=3)
    graph = head.build_graph(problem.proxies)
    loss, d_embeddings, d_proxies, _ = gradients(head, graph)
    expected = reference()
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


@pytest.mark.parametrize("name", ["exact", "sampled"])
def test_negatives_above_the_filter_are_ignored(
    name, make_head, gradients, reference, assert_close
):
    head = make_head(name=name, active=1.0, filter=0.2)
    loss, d_embeddings, d_proxies, _ = gradients(head)
    expected = reference(max_cosine=0.2)
    assert loss < reference()[0]
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


def test_sample_without_negatives_has_zero_loss(make_head, gradients):
    loss, d_embeddings, d_proxies, _ = gradients(make_head(filter=-0.999))
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)
    np.testing.assert_array_equal(d_embeddings, 0.0)
    np.testing.assert_array_equal(d_proxies, 0.0)


@pytest.mark.parametrize("margin", ["cosface", "arcface"])
def test_each_sample_can_have_its_own_margin(
    margin, mesh, make_head, gradients, reference, assert_close
):
    sizes = np.linspace(0.0, 0.5, 16, dtype=np.float32)
    loss, d_embeddings, d_proxies, _ = gradients(
        make_head(margin=margin),
        margins=jax.device_put(sizes, meshes.rows(mesh)),
    )
    expected = reference(margin, sizes.astype(np.float64))
    assert_close(loss, expected[0])
    assert_close(d_embeddings, expected[1])
    assert_close(d_proxies, expected[2])


@pytest.mark.parametrize("narrow", ["products", "wire"])
def test_bfloat16_only_rounds_the_factors(
    narrow, make_head, gradients, reference, assert_close
):
    """bf16 has 8 bits: the relative error of a factor is at most 2^-9."""
    found = gradients(make_head(**{narrow: "bfloat16"}))
    for actual, expected in zip(found[:3], reference(), strict=True):
        assert_close(actual, expected, rtol=2e-2)
    # Sums are f32, so the loss is more accurate than the gradients.
    assert_close(found[0], reference()[0], rtol=2e-3)
