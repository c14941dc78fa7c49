"""Imprinting: initialization of proxies with mean embeddings.

See Qi et al., "Low-Shot Learning with Imprinted Weights", arXiv 1712.07136::

    sums = imprint.init(num_categories, dim, mesh)
    for embeddings, labels, mask in batches:
        sums = imprint.add(sums, embeddings, labels, mask, mesh)
    proxies = imprint.finish(sums, proxies)
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.mesh import AXIS


def init(num_categories: int, dim: int, mesh: Mesh) -> jax.Array:
    """Returns the initial sums, zero f32 `[C_pad, D]`, split by rows."""
    rows = meshes.padded_rows(num_categories, mesh)
    return jnp.zeros((rows, dim), device=meshes.rows(mesh))


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="sums")
def add(
    sums: jax.Array,
    embeddings: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    mesh: Mesh,
) -> jax.Array:
    """Adds a batch's unit embeddings to the sums of their categories.

    Args:
      sums: f32 `[C_pad, D]`, the sums of the previous batches; donated.
      embeddings: `[B, D]`, split over the mesh by rows.
      labels: int32 `[B]` in `[0, C)`, split likewise.
      mask: bool `[B]`, split likewise; False for padding rows.
      mesh: the mesh that all these arrays are split over.

    Returns:
      The new sums.
    """

    def add(sums, embeddings, labels, mask):
        unit, _ = rows_lib.unit(embeddings)
        unit, labels, mask = jax.lax.all_gather(
            (unit, labels, mask), AXIS, tiled=True
        )
        local = labels - jax.lax.axis_index(AXIS) * len(sums)
        here = mask & (local >= 0) & (local < len(sums))
        return sums.at[jnp.where(here, local, len(sums))].add(unit, mode="drop")

    split = jax.P(AXIS)
    return jax.shard_map(
        add, mesh=mesh, in_specs=(split,) * 4, out_specs=split
    )(sums, embeddings, labels, mask)


@functools.partial(jax.jit, donate_argnames="proxies")
def finish(sums: jax.Array, proxies: jax.Array) -> jax.Array:
    """Sets each category's proxy to the mean direction of its samples.

    Args:
      sums: f32 `[C_pad, D]`, the sums of all batches.
      proxies: `[C_pad, n D]`, kept for categories without samples; donated.

    Returns:
      `[C_pad, n D]`; the means are unit vectors. Only the first of a
      category's n sub-centers becomes the mean; the others stay random, to
      attract samples that are far from it.
    """
    seen = jnp.any(sums != 0, -1, keepdims=True)
    dim = sums.shape[1]
    means = rows_lib.unit(sums)[0].astype(proxies.dtype)
    return proxies.at[:, :dim].set(jnp.where(seen, means, proxies[:, :dim]))
