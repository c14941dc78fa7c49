import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies import sparse_sgd


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_with_all_rows_active_it_is_optax(momentum, weight_decay):
    sparse = sparse_sgd.sparse_sgd(momentum, weight_decay)
    dense = optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(0.3, momentum)
    )
    rows = expected = jax.random.normal(jax.random.key(0), (6, 3))
    moments, state = sparse.init(rows), dense.init(rows)
    for seed in range(4):
        gradient = jax.random.normal(jax.random.key(seed), rows.shape)
        rows, moments = sparse.update(gradient, moments, rows, 0.3)
        updates, state = dense.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_array_equal(rows, expected)


def test_a_resting_row_s_clock_stands_still():
    """Steps with some rows are, to a row, the steps in which it took part."""
    optimizer = sparse_sgd.sparse_sgd(0.9, 0.1)
    rows = jax.random.normal(jax.random.key(0), (5, 3))
    gradients = jax.random.normal(jax.random.key(1), (4, 5, 3))
    active = [[0, 1], [1, 4], [1, 2], [0, 1]]
    sparse, moments = rows, optimizer.init(rows)
    for gradient, indices in zip(gradients, active, strict=True):
        indices = jnp.array(indices)
        part = rows_lib.take((sparse, moments), indices)
        new = optimizer.update(gradient[indices], part[1], part[0], 0.3)
        sparse, moments = rows_lib.put((sparse, moments), indices, new)
    for row in range(5):
        alone, velocity = rows[row], jnp.zeros(3)
        for gradient, indices in zip(gradients, active, strict=True):
            if row in indices:
                alone, velocity = optimizer.update(
                    gradient[row], velocity, alone, 0.3
                )
        np.testing.assert_array_equal(sparse[row], alone)
        np.testing.assert_array_equal(moments[row], velocity)
    np.testing.assert_array_equal(sparse[3], rows[3])


def test_without_momentum_no_velocity_is_kept():
    assert not jax.tree.leaves(
        sparse_sgd.sparse_sgd(0.0).init(jnp.ones((2, 2)))
    )
