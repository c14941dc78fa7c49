"""Recall of the nearest negatives in the active set."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import nearest
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime.mesh import AXIS

_ROWS = 4096  # proxies scored at a time


@functools.partial(jax.jit, static_argnames=("num_categories", "mesh", "k"))
def active_recall(
    active: jax.Array,
    proxies: jax.Array,
    embeddings: jax.Array,
    labels: jax.Array,
    num_categories: int,
    mesh: Mesh,
    k: int = 10,
) -> jax.Array:
    """Returns the share of the true nearest negatives that are active.

    This scores every proxy, so it is meant for an occasional probe batch.

    Args:
      active: int32 `[n * M]`, the result of the head's `select`.
      proxies: `[C_pad, n D]`, split over the mesh by rows.
      embeddings: `[B, D]`, split over the mesh by rows.
      labels: int32 `[B]`, split likewise.
      num_categories: C.
      mesh: the mesh that all these arrays are split over.
      k: the number of nearest negatives per sample.

    Returns:
      f32 scalar in [0, 1].
    """
    k = min(k, num_categories - 1)

    def recall(active, proxies, embeddings, labels):
        z, _ = rows_lib.unit(embeddings)
        z, labels = jax.lax.all_gather((z, labels), AXIS, tiled=True)
        start, count = rows_lib.own(num_categories, len(proxies))
        candidates = rows_lib.varying(nearest.none(len(z), k))
        candidates = nearest.extend(
            candidates, z[:, None, :], labels, proxies, start, count, _ROWS
        )
        # Merge the k nearest from all devices into the global k nearest.
        cosines, ids = jax.lax.all_gather(candidates, AXIS, axis=1, tiled=True)
        _, ids = nearest.keep(cosines, ids, k)
        place = jnp.searchsorted(active, ids - start)
        place = jnp.minimum(place, len(active) - 1)
        return jax.lax.psum(jnp.mean(active[place] == ids - start), AXIS)

    split = jax.P(AXIS)
    return jax.shard_map(
        recall, mesh=mesh, in_specs=(split,) * 4, out_specs=jax.P()
    )(active, proxies, embeddings, labels)
