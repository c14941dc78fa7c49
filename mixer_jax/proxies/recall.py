"""How many of the negatives that matter the active set has."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.proxies import nearest
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime.mesh import AXIS

_ROWS = 4096  # proxies scored at once


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
    """Measures the share of the true nearest negatives that were active.

    It scores every proxy, so it is meant for a probe batch now and then.

    Args:
      active: int32 `[n * M]`, what the head's `select` returned.
      proxies: `[C_pad, n D]`, split over the mesh by rows.
      embeddings: `[B, D]`, split over the mesh by rows.
      labels: int32 `[B]`, split likewise.
      num_categories: C.
      mesh: the mesh that all of them are split over.
      k: how many of a sample's nearest negatives count.

    Returns:
      f32 scalar in [0, 1].
    """
    k = min(k, num_categories - 1)

    def recall(active, proxies, embeddings, labels):
        z, _ = rows_lib.unit(embeddings)
        z = jax.lax.all_gather(z, AXIS, tiled=True)
        labels = jax.lax.all_gather(labels, AXIS, tiled=True)
        start, count = rows_lib.own(num_categories, len(proxies))
        found = jax.lax.pcast(nearest.none(len(z), k), AXIS, to="varying")
        found = nearest.extend(
            found, z[:, None, :], labels, proxies, start, count, _ROWS
        )
        # Every device's k nearest, side by side; the k nearest of those.
        cosines, ids = jax.lax.all_gather(found, AXIS, axis=1, tiled=True)
        _, ids = nearest.keep(cosines, ids, k)
        place = jnp.searchsorted(active, ids - start)
        place = jnp.minimum(place, len(active) - 1)
        return jax.lax.psum(jnp.mean(active[place] == ids - start), AXIS)

    split = jax.P(AXIS)
    return jax.shard_map(
        recall, mesh=mesh, in_specs=(split,) * 4, out_specs=jax.P()
    )(active, proxies, embeddings, labels)
