import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_jax.proxies import row_optimizers as ro
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as config_lib

PAIRS = {
    "sgd": (ro.sgd(0.0), optax.sgd(0.3)),
    "sgd-decay": (
        ro.sgd(0.9, 0.1),
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.3, 0.9)),
    ),
    "adagrad": (ro.adagrad(), optax.adagrad(0.3)),
    "adam-decay": (
        ro.adam(0.1),
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.3)),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_all_rows_active_matches_optax(name):
    sparse, dense = PAIRS[name]
    rows = expected = jax.random.normal(jax.random.key(0), (6, 3))
    moments, state = sparse.init(rows), dense.init(rows)
    for seed in range(4):
        gradient = jax.random.normal(jax.random.key(seed), rows.shape)
        rows, moments = sparse.update(gradient, moments, rows, 0.3, None)
        updates, state = dense.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_inactive_rows_keep_their_state(name):
    """A row is updated as if only its active steps had been run."""
    optimizer, _ = PAIRS[name]
    rows = jax.random.normal(jax.random.key(0), (5, 3))
    gradients = jax.random.normal(jax.random.key(1), (4, 5, 3))
    active = [[0, 1], [1, 4], [1, 2], [0, 1]]
    sparse, moments = rows, optimizer.init(rows)
    for gradient, indices in zip(gradients, active, strict=True):
        indices = jnp.array(indices)
        part = rows_lib.take((sparse, moments), indices)
        new = optimizer.update(gradient[indices], part[1], part[0], 0.3, None)
        sparse, moments = rows_lib.put((sparse, moments), indices, new)
    for row in range(5):
        alone = rows[row : row + 1]
        state = optimizer.init(alone)
        for gradient, indices in zip(gradients, active, strict=True):
            if row in indices:
                alone, state = optimizer.update(
                    gradient[row : row + 1], state, alone, 0.3, None
                )
        np.testing.assert_allclose(sparse[row], alone[0], rtol=1e-6)
        for whole, one in zip(
            jax.tree.leaves(moments), jax.tree.leaves(state), strict=True
        ):
            np.testing.assert_allclose(whole[row], one[0], rtol=1e-6)
    np.testing.assert_array_equal(sparse[3], rows[3])


def test_sgd_without_momentum_has_no_velocity():
    assert not jax.tree.leaves(ro.sgd(0.0).init(jnp.ones((2, 2))))


def test_stochastic_rounding_is_unbiased():
    x = jnp.array([[1.001, -3.1415927, 1e-20, 0.0, 2.0, 3.3e38]])
    keys = jax.random.split(jax.random.key(0), 4000)
    rounded = jax.vmap(lambda key: ro.round_by_chance(x, key))(keys)
    assert rounded.dtype == jnp.bfloat16
    rounded = np.asarray(rounded, np.float64)
    wide = np.asarray(x, np.float64)
    # Allow four standard errors; bf16 values are at most 2^-7 apart.
    error = np.abs(rounded.mean(0) - wide)
    assert (error <= 4 * np.abs(wide) * 2.0**-7 / 2 / np.sqrt(4000)).all()
    assert len(np.unique(rounded[:, 0, 1])) == 2
    assert (rounded[:, 0, 3:5] == [0.0, 2.0]).all()
    odd = ro.round_by_chance(jnp.array([jnp.inf, jnp.nan]), jax.random.key(0))
    assert np.isposinf(odd[0])
    assert np.isnan(odd[1])


def test_small_steps_on_bf16_rows_add_up():
    optimizer = ro.sgd_bf16()
    rows = jnp.ones((64, 64), jnp.bfloat16)

    @jax.jit
    def descend(rows, key):
        return optimizer.update(jnp.ones(rows.shape), (), rows, 1e-4, key)[0]

    for seed in range(200):
        rows = descend(rows, jax.random.key(seed))
    # Each step is 1/39 of bf16's spacing below 1, so rounding to nearest would
    # discard all of them.
    mean = np.mean(np.asarray(rows, np.float64))
    np.testing.assert_allclose(mean, 1 - 200 * 1e-4, atol=1e-3)


def test_cap_norms_keeps_directions():
    optimizer = ro.cap_norms(ro.sgd(), 2.0)
    rows = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    capped, _ = optimizer.update(jnp.zeros((3, 2)), (), rows, 0.1, None)
    np.testing.assert_allclose(capped, [[1.2, 1.6], [0.3, 0.4], [0, 0]])


def test_unknown_optimizer_error_lists_known_names():
    proxies = config_lib.defaults().proxies
    proxies.optimizer = "adamax"
    with pytest.raises(UserError, match="'adamax'; it must be one of adagrad"):
        ro.make_optimizer(proxies)


def test_make_optimizer_follows_the_config():
    proxies = config_lib.defaults().proxies
    proxies.update({"optimizer": "adam", "max_norm": 1.0})
    optimizer = ro.make_optimizer(proxies)
    rows = 5 * jnp.ones((2, 4))
    moved, _ = optimizer.update(
        jnp.ones((2, 4)), optimizer.init(rows), rows, 0.1, None
    )
    np.testing.assert_allclose(jnp.linalg.norm(moved, axis=1), 1.0, rtol=1e-6)
