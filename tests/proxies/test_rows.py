import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.proxies import row_optimizers, rows
from mixer_jax.runtime import mesh as meshes


def test_proxies_do_not_depend_on_the_number_of_devices(mesh):
    one = meshes.make_mesh(jax.devices()[:1])
    expected = rows.init_proxies(jax.random.key(3), 13, 4, one)
    proxies = rows.init_proxies(jax.random.key(3), 13, 4, mesh)
    assert proxies.sharding.is_equivalent_to(meshes.rows(mesh), 2)
    np.testing.assert_array_equal(proxies[:13], expected)
    np.testing.assert_array_equal(proxies[13:], 0)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)


def test_moments_are_sharded_like_the_proxies(mesh):
    proxies = rows.init_proxies(jax.random.key(3), 13, 4, mesh)
    moments = row_optimizers.sgd(0.9).init(proxies)
    assert moments.sharding.is_equivalent_to(proxies.sharding, 2)


def test_own_rows_cover_all_categories(mesh):
    size = meshes.padded_rows(13, mesh) // mesh.size

    def own():
        start, count = rows.own(13, size)
        return start[None], count[None]

    start, count = jax.shard_map(
        own, mesh=mesh, in_specs=(), out_specs=jax.P(meshes.AXIS)
    )()
    np.testing.assert_array_equal(start, np.arange(mesh.size) * size)
    assert count.sum() == 13
    assert (count[:-1] >= count[1:]).all()


def test_d_unit_is_the_derivative_of_unit():
    x, gradient = jax.random.normal(jax.random.key(0), (2, 5, 3))
    (unit, norm), pullback = jax.vjp(rows.unit, x)
    (expected,) = pullback((gradient, jnp.zeros_like(norm)))
    np.testing.assert_allclose(
        rows.d_unit(unit, norm, gradient), expected, rtol=1e-5, atol=1e-6
    )


def test_zero_row_stays_zero():
    unit, norm = rows.unit(jnp.zeros((1, 3)))
    np.testing.assert_array_equal(unit, 0)
    np.testing.assert_array_equal(rows.d_unit(unit, norm, unit), 0)


def test_take_and_put_are_inverse():
    tree = {"a": jnp.arange(10.0).reshape(5, 2), "b": jnp.arange(5)}
    indices = jnp.array([1, 4])
    part = rows.take(tree, indices)
    np.testing.assert_array_equal(part["b"], [1, 4])
    again = rows.put(tree, indices, part)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    zero = rows.put(tree, indices, jax.tree.map(jnp.zeros_like, part))
    np.testing.assert_array_equal(zero["b"], [0, 0, 2, 3, 0])
