"""Screening bounds, ties across devices, and the size of TPU programs."""

import importlib.util
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.compiled import abstract_pod
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.mesh import make_mesh, replicated, rows
from mixer_jax.search import segment_search, segments, short_factors
from mixer_jax.search.queries import Asked
from mixer_jax.search.segment_search import Best


def filled(num_devices, vectors):
    mesh = make_mesh(jax.devices()[:num_devices])
    segment = segments.allocate(256, vectors.shape[1], 16, mesh)
    labels = np.full(len(vectors), -1, np.int32)
    return segments.add(segment, 0, vectors, labels)


def test_what_is_not_scored_is_below_the_bound(num_devices, monkeypatch):
    """The bound holds even if far too few groups are scored."""
    monkeypatch.setattr(segment_search, "_FEW", 0)
    bfloat16 = jnp.dtype(jnp.bfloat16)
    monkeypatch.setattr(short_factors, "fast_dtype", lambda: bfloat16)
    rng = np.random.default_rng(0)
    vectors = normalize(rng.normal(size=(240, 64)) ** 5)
    queries = normalize(rng.normal(size=(8, 64)) ** 5)
    segment = filled(num_devices, vectors)
    best = segment_search.screened(
        *(segment, None, Asked(queries), Best.empty(8, 4)),
        **{"first": 0, "blocks": 15, "kept": 3},
    )
    best = jax.device_get(best)
    cosine = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_allclose(
        np.take_along_axis(cosine, best.number, 1), best.cosine, atol=1e-6
    )
    # The bound covers all but the top three groups and is tight.
    groups = cosine.reshape(8, -1, 8).max(2)
    fourth = -np.sort(-groups, axis=1)[:, 3]
    assert (best.bound >= fourth).all()
    assert (best.bound <= fourth + 0.05).all()
    sure = best.sure(1)
    assert sure.any()
    assert (best.number[sure, 0] == cosine[sure].argmax(1)).all()


def test_ties_of_devices_go_to_the_lower_row(num_devices):
    segment = filled(num_devices, np.ones((250, 4), np.float32) / 2)
    asked = Asked(np.ones((1, 4), np.float32) / 2)
    best = segment_search.scored(
        *(segment, None, asked, Best.empty(1, 70)), first=30, blocks=16
    )
    assert best.number[0].tolist() == list(range(30, 100))
    assert best.sure(70).all()


@pytest.mark.slow
@pytest.mark.skipif(
    "TPU_LIBRARY_PATH" not in os.environ
    and importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler, libtpu, is not installed",
)
def test_a_hundred_million_rows_fit_on_sixteen_chips():
    mesh = abstract_pod.make_mesh("v5e:4x4")
    capacity, dim, k = 6 * 2**24, 256, 16

    def array(dtype, *shape, sharding=replicated):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(mesh))

    held = partial(array, sharding=rows)
    segment = segments.Segment(
        whole=held(jnp.float32, capacity, dim),
        short=held(jnp.int8, capacity, dim),
        scale=held(jnp.float32, capacity),
        slack=held(jnp.float32, capacity),
        label=held(jnp.int32, capacity),
        present=held(jnp.bool, capacity),
        block=4096,
        mesh=mesh,
    )
    best = Best(
        array(jnp.int32, 1, k), array(jnp.float32, 1, k), array(jnp.float32, 1)
    )
    number = array(jnp.int32)
    program = segment_search._screened.lower(
        *(segment, held(jnp.bool, capacity), Asked(array(jnp.float32, 1, dim))),
        *(best, number, number),
        **{"kept": 64, "dtype": jnp.dtype(jnp.float32), "tile": 4096},
    )
    sizes = program.compile().memory_analysis()
    total = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    assert capacity * dim * 5 / 16 < total < 11e9
    assert total < abstract_pod.CHIPS["TPU v5 lite"].capacity
