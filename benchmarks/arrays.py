"""Random arrays for measurements, filled chunk by chunk.

`jax.random.normal` of shape `[C, D]` temporarily needs several arrays of that
size, possibly more than the measured step.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as meshes

_CHUNK = 4096  # rows drawn at a time


@dataclasses.dataclass
class Arrays:
    """Arguments of a step, common to all heads.

    Attributes:
      proxies: f32 `[C_pad, D]`, unit rows; padding rows are zero.
      momentum: f32 `[C_pad, D]`, initially zero.
      embeddings: f32 `[B, D]`.
      labels: int32 `[B]`.
      graph: int32 `[C_pad, K]`, random, or None.
    """

    proxies: jax.Array
    momentum: jax.Array
    embeddings: jax.Array
    labels: jax.Array
    graph: jax.Array | None


def make_arrays(
    classes: int, dim: int, batch: int, neighbors: int, mesh: Mesh
) -> Arrays:
    """Makes the arrays of one measurement, split over the mesh.

    The class graph is random: each category has K neighbors, rarely repeated
    if C is large. The cost of a step does not depend on the neighbors, and
    building the true graph of a million categories takes an hour on a CPU.

    Args:
      classes: C, the number of categories.
      dim: D, the size of embeddings and proxies.
      batch: B, the batch size.
      neighbors: K, the neighbors per category; 0 for no class graph.
      mesh: the mesh over which rows are split.
    """
    padded = meshes.padded_rows(classes, mesh)

    def proxies(key, rows):
        drawn, _ = rows_lib.unit(jax.random.normal(key, (len(rows), dim)))
        return jnp.where(rows[:, None] < classes, drawn, 0)

    def embeddings(key, rows):
        return jax.random.normal(key, (len(rows), dim))

    def labels(key, rows):
        return jax.random.randint(key, rows.shape, 0, classes)

    def graph(key, rows):
        size = (len(rows), neighbors)
        jump = jax.random.randint(key, size, 1, classes)
        return (rows[:, None] + jump) % classes

    keys = jax.random.split(jax.random.key(0), 4)
    return Arrays(
        proxies=_fill(proxies, keys[0], padded, mesh),
        momentum=_fill(
            lambda key, rows: jnp.zeros((len(rows), dim)), keys[1], padded, mesh
        ),
        embeddings=_fill(embeddings, keys[1], batch, mesh),
        labels=_fill(labels, keys[2], batch, mesh),
        graph=_fill(graph, keys[3], padded, mesh) if neighbors else None,
    )


def _fill(
    draw: Callable[[jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    number: int,
    mesh: Mesh,
) -> jax.Array:
    """Returns an array of `number` rows, filled by `draw(key, row numbers)`."""
    local = number // mesh.size
    size = min(local, _CHUNK)
    one = jax.eval_shape(draw, key, jnp.arange(size))

    def part(key):
        device = jax.lax.axis_index(meshes.AXIS)
        key = jax.random.fold_in(key, device)

        def write(index, array):
            # The last chunk may overlap the one before it.
            start = jnp.minimum(index * size, local - size)
            rows = device * local + start + jnp.arange(size)
            drawn = draw(jax.random.fold_in(key, index), rows)
            return jax.lax.dynamic_update_slice_in_dim(array, drawn, start, 0)

        array = jnp.zeros((local, *one.shape[1:]), one.dtype)
        array = jax.lax.pcast(array, meshes.AXIS, to="varying")
        return jax.lax.fori_loop(0, -(-local // size), write, array)

    fill = jax.shard_map(
        part, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(meshes.AXIS)
    )
    return jax.block_until_ready(jax.jit(fill)(key))
