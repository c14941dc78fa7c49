"""A small problem, and a float64 reference that does not use the heads."""

import types

import jax
import numpy as np
import pytest

from mixer_jax.proxies import heads, interface
from mixer_jax.runtime import mesh as meshes
from mixer_jax.training.config import defaults as configs


@pytest.fixture
def mesh(num_devices):
    return meshes.make_mesh(jax.devices()[:num_devices])


@pytest.fixture
def problem(mesh):
    """37 categories, not divisible by 2, 4 or 8; every label occurs twice."""
    rng = np.random.default_rng(0)
    num_categories, dim, batch = 37, 8, 16
    labels = rng.integers(0, num_categories, batch).astype(np.int32)
    labels[batch // 2 :] = labels[: batch // 2]
    embeddings = rng.normal(size=(batch, dim)).astype(np.float32)
    proxies = np.zeros(
        (meshes.padded_rows(num_categories, mesh), dim), np.float32
    )
    proxies[:num_categories] = rng.normal(size=(num_categories, dim))
    arrays = {"proxies": proxies, "embeddings": embeddings, "labels": labels}
    return types.SimpleNamespace(
        num_categories=num_categories,
        batch=batch,
        **jax.device_put(arrays, meshes.rows(mesh)),
    )


@pytest.fixture
def make_head(mesh, problem):
    """Makes a head for the problem; keywords override config.head."""

    def make(**changes):
        config = configs.defaults().head
        config.update({"chunk": 3, "scale": 8.0, "neighbors": 4} | changes)
        return heads.make_head(
            config, mesh, problem.num_categories, problem.batch
        )

    return make


@pytest.fixture
def gradients(problem):
    """Runs a head; returns loss, both gradients and metrics as NumPy arrays."""
    # Keeps the rows unchanged and stores their gradients as the moments.
    recorder = interface.RowOptimizer(
        jax.numpy.zeros_like,
        lambda gradients, moments, rows, rate, key: (rows, gradients),
    )

    def run(head, graph=None, key=None, margins=None):
        def step(proxies, embeddings, labels, graph, key, margins):
            return head.step(
                recorder,
                interface.HeadInput(
                    proxies=proxies,
                    embeddings=embeddings,
                    labels=labels,
                    key=key,
                    graph=graph,
                    moments=recorder.init(proxies),
                    margins=margins,
                ),
            )

        out = jax.jit(step)(
            problem.proxies,
            problem.embeddings,
            problem.labels,
            graph,
            jax.random.key(0) if key is None else key,
            margins,
        )
        return jax.device_get(
            (out.loss, out.d_embeddings, out.moments, out.metrics)
        )

    return run


def _margin(cosine, name, size):
    """Returns the cosines with their margins, computed from the angles."""
    angle = np.arccos(cosine)
    if name == "cosface":
        return cosine - size
    if name == "arcface":
        moved = np.cos(angle + size)
        return np.where(angle + size < np.pi, moved, -2 - moved)
    return cosine


@pytest.fixture
def reference(problem):
    """The loss and its gradients in float64, by central differences.

    Only the categories in `among` (default: all) are scored, and only negatives
    up to `max_cosine`, with the given `weights` `[C]`.
    """

    def loss(z, w, labels, name, size, scale, among, max_cosine, weights):
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
        w = w.reshape(len(w), -1, z.shape[1])  # sub-centers
        w = w / np.linalg.norm(w, axis=-1, keepdims=True)
        cosines = np.einsum("bd,cnd->bcn", z, w).max(-1)
        each = np.arange(len(z))
        target = scale * _margin(cosines[each, labels], name, size)
        among = among[None, :] & (cosines <= max_cosine)
        logits = scale * cosines + np.log(weights)
        logits = np.where(among, logits, -np.inf)
        logits[each, labels] = target
        peak = logits.max(1, keepdims=True)
        total = np.exp(logits - peak).sum(1)
        return np.mean(np.log(total) + peak[:, 0] - target)

    def run(
        margin="cosface",
        size=0.25,
        scale=8.0,
        among=None,
        max_cosine=1.0,
        weights=1.0,
    ):
        c = problem.num_categories
        z, w = jax.device_get((problem.embeddings, problem.proxies[:c]))
        z, w = z.astype(np.float64), w.astype(np.float64)
        labels = jax.device_get(problem.labels)
        among = np.isin(np.arange(c), np.arange(c) if among is None else among)
        settings = labels, margin, size, scale, among, max_cosine, weights
        dz, dw = np.zeros_like(z), np.zeros_like(problem.proxies, np.float64)
        for array, gradient in ((z, dz), (w, dw)):
            for index in np.ndindex(array.shape):
                kept, step = array[index], 1e-6
                array[index] = kept + step
                high = loss(z, w, *settings)
                array[index] = kept - step
                low = loss(z, w, *settings)
                gradient[index] = (high - low) / (2 * step)
                array[index] = kept
        return loss(z, w, *settings), dz, dw

    return run


@pytest.fixture
def assert_close():
    """Asserts equality relative to the largest entry."""

    def check(actual, expected, rtol=1e-5):
        expected = np.asarray(expected)
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=rtol * np.abs(expected).max()
        )

    return check
