"""Imprinting: initialization of proxies with mean embeddings.

See Qi et al., "Low-Shot Learning with Imprinted Weights", arXiv 1712.07136::

    sums = imprint.init(num_categories, dim, mesh)
    for embeddings, labels, mask in batches:
        sums = imprint.add(sums, embeddings, labels, mask, mesh)
    proxies = imprint.finish(sums, proxies, mesh)

The sums are f32 and as large as the proxies. To save memory, imprint the
proxies in blocks of rows; see `Block`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.mesh import AXIS


class Block(NamedTuple):
    """Rows `[start, stop)` of every device's part of the proxies.

    Attributes:
      start: the first row, in each device's part.
      stop: the row after the last one.
      offset: the row of the first sum; the sums of the last block also cover
        rows of the block before it, and are zero there.
      size: the number of sums per device.
      rows: R, the number of rows of the proxies on each device.
    """

    start: int
    stop: int
    offset: int
    size: int
    rows: int


def blocks(num_categories: int, size: int, mesh: Mesh) -> list[Block]:
    """Returns blocks that cover all rows, with at most `size` per device."""
    rows = rows_lib.per_device(num_categories, mesh)
    size = min(size, rows)
    return [
        Block(
            start, min(start + size, rows), min(start, rows - size), size, rows
        )
        for start in range(0, rows, size)
    ]


def init(
    num_categories: int, dim: int, mesh: Mesh, block: Block | None = None
) -> jax.Array:
    """Returns the initial sums, zero f32 `[S, D]`, split by rows.

    S is C_pad, or the number of rows of a block on all devices.
    """
    rows = meshes.padded_rows(num_categories, mesh)
    if block is not None:
        rows = block.size * mesh.size
    return jnp.zeros((rows, dim), device=meshes.rows(mesh))


def add(
    sums: jax.Array,
    embeddings: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    mesh: Mesh,
    block: Block | None = None,
) -> jax.Array:
    """Adds a batch's unit embeddings to the sums of their categories.

    Args:
      sums: f32 `[S, D]`, the sums of the previous batches; donated.
      embeddings: `[B, D]`, split over the mesh by rows.
      labels: int32 `[B]` in `[0, C)`, split likewise; those outside the block
        are ignored.
      mask: bool `[B]`, split likewise; False for padding rows.
      mesh: the mesh that all these arrays are split over.
      block: the rows covered by the sums; None for all.

    Returns:
      The new sums.
    """
    rows = block.rows if block else len(sums) // mesh.size
    offset = block.offset if block else 0
    return _add(sums, embeddings, labels, mask, offset, rows=rows, mesh=mesh)


@functools.partial(
    jax.jit, static_argnames=("rows", "mesh"), donate_argnames="sums"
)
def _add(sums, embeddings, labels, mask, offset, *, rows, mesh):
    def add(sums, embeddings, labels, mask, offset):
        unit, _ = rows_lib.unit(embeddings)
        unit, labels, mask = jax.lax.all_gather(
            (unit, labels, mask), AXIS, tiled=True
        )
        local = labels - jax.lax.axis_index(AXIS) * rows
        mask &= (local >= 0) & (local < rows)
        local -= offset
        here = mask & (local >= 0) & (local < len(sums))
        return sums.at[jnp.where(here, local, len(sums))].add(unit, mode="drop")

    split = jax.P(AXIS)
    return jax.shard_map(
        add,
        mesh=mesh,
        in_specs=(split, split, split, split, jax.P()),
        out_specs=split,
    )(sums, embeddings, labels, mask, offset)


def finish(
    sums: jax.Array, proxies: jax.Array, mesh: Mesh, block: Block | None = None
) -> jax.Array:
    """Sets each category's proxy to the mean direction of its samples.

    Args:
      sums: f32 `[S, D]`, the sums of all batches.
      proxies: `[C_pad, n D]`, kept for categories without samples; donated.
      mesh: the mesh that both are split over.
      block: the rows covered by the sums; None for all.

    Returns:
      `[C_pad, n D]`; the means are unit vectors. Only the first of a
      category's n sub-centers becomes the mean; the others stay random, to
      attract samples that are far from it.
    """
    return _finish(sums, proxies, block.offset if block else 0, mesh=mesh)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="proxies")
def _finish(sums, proxies, offset, *, mesh):
    def finish(sums, proxies, offset):
        seen = jnp.any(sums != 0, -1, keepdims=True)
        means = rows_lib.unit(sums)[0].astype(proxies.dtype)
        old = jax.lax.dynamic_slice(proxies, (offset, 0), sums.shape)
        new = jnp.where(seen, means, old)
        return jax.lax.dynamic_update_slice(proxies, new, (offset, 0))

    split = jax.P(AXIS)
    return jax.shard_map(
        finish, mesh=mesh, in_specs=(split, split, jax.P()), out_specs=split
    )(sums, proxies, offset)
