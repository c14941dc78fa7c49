"""Initialization of the proxies, and access to the rows on each device.

Row i of the proxies belongs to category i. Every device holds the same number
of consecutive rows; the surplus rows at the end are padding, which is zero and
never scored. `own`, `own_key`, `varying`, `take` and `put` run inside
`jax.shard_map` over the mesh axis.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.runtime import mesh as meshes

TINY = 1e-12  # lower bound on squared norms
_DRAWN = 4096  # rows drawn at once


def unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits rows `[..., D]` into unit rows and norms `[..., 1]`, in f32."""
    x = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), TINY))
    return x / norm, norm


def d_unit(
    direction: jax.Array, norm: jax.Array, gradient: jax.Array
) -> jax.Array:
    """Pulls a gradient with respect to the rows of `unit(x)` back to `x`."""
    along = jnp.sum(gradient * direction, -1, keepdims=True)
    return (gradient - along * direction) / norm


def product(
    formula: str, left: jax.Array, right: jax.Array, dtype: str
) -> jax.Array:
    """Multiplies matrices cast to a dtype and accumulates in f32.

    Args:
      formula: subscripts for `jnp.einsum`.
      left: the first factor.
      right: the second factor.
      dtype: the dtype of the factors; "float32" gives full precision even
        where JAX's default is lower, "bfloat16" is faster.
    """
    exact = dtype == "float32"
    return jnp.einsum(
        formula,
        left.astype(dtype),
        right.astype(dtype),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=jnp.float32,
    )


def init_proxies(
    key: jax.Array,
    num_categories: int,
    dim: int,
    mesh: Mesh,
    subcenters: int = 1,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Draws random unit proxies, independent of the number of devices.

    Each row is drawn with its own key, in blocks: drawing all at once would
    take several times the memory of the result.

    Args:
      key: a PRNG key.
      num_categories: C.
      dim: D.
      mesh: the mesh that the rows are split over.
      subcenters: n, the number of unit vectors per category.
      dtype: the dtype of the result.

    Returns:
      `[C_pad, n D]`, split over the mesh; rows from C on are zero.
    """
    length = per_device(num_categories, mesh)
    size = min(_DRAWN, length)

    def draw(row: jax.Array) -> jax.Array:
        row_key = jax.random.fold_in(key, row)
        centers, _ = unit(jax.random.normal(row_key, (subcenters, dim)))
        return jnp.where(row < num_categories, centers.reshape(-1), 0)

    def init() -> jax.Array:
        first, _ = own(num_categories, length)

        def fill(index: jax.Array, proxies: jax.Array) -> jax.Array:
            # The last block overlaps the one before it.
            start = jnp.minimum(index * size, length - size)
            block = jax.vmap(draw)(first + start + jnp.arange(size))
            return jax.lax.dynamic_update_slice_in_dim(
                proxies, block.astype(dtype), start, 0
            )

        empty = varying(jnp.zeros((length, subcenters * dim), dtype))
        return jax.lax.fori_loop(0, -(-length // size), fill, empty)

    return jax.jit(
        jax.shard_map(
            init, mesh=mesh, in_specs=(), out_specs=jax.P(meshes.AXIS)
        )
    )()


def per_device(num_categories: int, mesh: Mesh) -> int:
    """Returns the number of rows on each device, including padding."""
    return meshes.padded_rows(num_categories, mesh) // mesh.size


def own(num_categories: int, rows: int) -> tuple[jax.Array, jax.Array]:
    """Returns where this device's rows begin and how many are not padding.

    Args:
      num_categories: C.
      rows: the number of rows per device, including padding.

    Returns:
      int32 scalars: the category of the first row; the number of real rows,
      which come before the padding.
    """
    start = jax.lax.axis_index(meshes.AXIS) * rows
    return start, jnp.clip(num_categories - start, 0, rows)


def own_key(key: jax.Array) -> jax.Array:
    """Derives a different PRNG key on each device from a common key."""
    return jax.random.fold_in(key, jax.lax.axis_index(meshes.AXIS))


def varying(tree: Any) -> Any:
    """Marks constants as varying over devices, as scan requires for carries."""
    return jax.lax.pcast(tree, meshes.AXIS, to="varying")


def take(tree: Any, indices: jax.Array) -> Any:
    """Gathers every leaf's rows at sorted and unique `indices [M]`."""
    return jax.tree.map(
        lambda x: x.at[indices].get(
            indices_are_sorted=True,
            unique_indices=True,
            mode="promise_in_bounds",
        ),
        tree,
    )


def put(tree: Any, indices: jax.Array, rows: Any) -> Any:
    """Writes `rows [M, ...]` at sorted and unique `indices [M]`."""
    return jax.tree.map(
        lambda x, row: x.at[indices].set(
            row,
            indices_are_sorted=True,
            unique_indices=True,
            mode="promise_in_bounds",
        ),
        tree,
        rows,
    )
