"""Shapes and shardings of the state."""

import jax
import numpy as np
import optax

from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.row_optimizers import sgd
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import state as state_lib


def create(num_devices):
    mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
    variables = {
        "params": {"frozen": np.ones((3,)), "moves": np.ones((2,))},
        "batch_stats": {"mean": np.zeros((3,))},
    }
    proxies = rows_lib.init_proxies(jax.random.key(0), 10, 4, mesh)
    state = state_lib.create(
        {"frozen": 0.0, "moves": 1.0},
        optax.scale_by_adam(),
        sgd(0.9),
        variables,
        proxies,
        None,
        mesh,
    )
    return state, mesh


def test_rows_are_split_and_the_rest_is_replicated(num_devices):
    state, mesh = create(num_devices)
    assert state.proxies.shape == (mesh_lib.padded_rows(10, mesh), 4)
    for leaf in (state.proxies, state.proxy_state):
        assert leaf.sharding.is_equivalent_to(mesh_lib.rows(mesh), 2)
    rest = state.replace(proxies=None, proxy_state=None)
    for leaf in jax.tree.leaves(rest):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == num_devices
    assert (int(state.step), int(state.skipped)) == (0, 0)


def test_abstract_state_has_the_same_layout():
    state, mesh = create(4)
    shapes = state_lib.abstract(state, mesh)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, leaf in zip(
        jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True
    ):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
        assert shape.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
