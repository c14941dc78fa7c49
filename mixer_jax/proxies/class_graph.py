"""The class graph: each category's K nearest other categories, by proxy."""

import jax
import jax.numpy as jnp

from mixer_jax.mesh import AXIS
from mixer_jax.proxies import nearest
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.chunks import Chunks

_QUERIES, _ROWS = 1024, 4096  # cosines at a time: 16 MiB


def build(proxies: jax.Array, num_categories: int, k: int) -> jax.Array:
    """Finds the exact K nearest other categories of every category.

    Call it inside `jax.shard_map` over the mesh axis. The devices stand in a
    ring; each keeps its own rows and hands a copy of its neighbour's around,
    so that after n hops every row has met every other. Memory is twice the
    device's part of the proxies, its part of the graph, and one block of
    cosines.

    Args:
      proxies: f32 `[R, D]`, this device's rows.
      num_categories: C.
      k: K, below C.

    Returns:
      int32 `[R, K]`, categories by falling cosine, never the row's own; what
      stands in rows of padding means nothing.
    """
    size, home = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    length = proxies.shape[0]
    unit, _ = rows_lib.unit(proxies)
    blocks = Chunks(length, _QUERIES)

    def hop(carry, step):
        found, visiting = carry
        first = (home + step) % size * length
        count = jnp.clip(num_categories - first, 0, length)

        def extend(found, index):
            own = home * length + blocks.positions(index)[0]
            better = nearest.extend(
                blocks.read(index, found),
                blocks.read(index, unit),
                own,
                visiting,
                first,
                count,
                _ROWS,
            )
            return blocks.write(index, found, better), None

        found, _ = jax.lax.scan(extend, found, blocks.indices)
        ring = [(device, (device - 1) % size) for device in range(size)]
        return (found, jax.lax.ppermute(visiting, AXIS, ring)), None

    found = jax.lax.pcast(nearest.none(length, k), AXIS, to="varying")
    (found, _), _ = jax.lax.scan(hop, (found, unit), jnp.arange(size))
    return found[1]
