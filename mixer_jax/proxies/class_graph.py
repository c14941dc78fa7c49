"""The class graph, which links each category to its K nearest neighbors."""

import jax
import jax.numpy as jnp

from mixer_jax.proxies import nearest
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.chunks import Chunks
from mixer_jax.runtime.mesh import AXIS

_QUERIES, _ROWS = 1024, 4096  # a block of cosines takes 16 MiB
_SPARE = 8  # candidates rescored in f32, in addition to K


def build(
    proxies: jax.Array,
    num_categories: int,
    k: int,
    subcenters: int = 1,
    products: str = "float32",
) -> jax.Array:
    """Finds the K nearest other categories of every category.

    Call this inside `jax.shard_map` over the mesh axis. The devices form a
    ring: each keeps its own rows as queries and passes the visiting rows to
    the next device, so that every pair of rows has been compared after one hop
    per device. The memory needed is about four times the device's part of the
    proxies (its unit rows, the visiting rows, the arriving rows and a copy),
    plus its part of the graph and a block of cosines.

    The result is exact with f32 products. Narrower products only select K + 8
    candidates among each device's rows, which are then rescored in f32: a
    neighbor is missed only if rounding ranks it behind 8 false ones.

    Args:
      proxies: `[R, n D]`, this device's rows.
      num_categories: C.
      k: K, the number of neighbors per category, below C.
      subcenters: n; the cosine of two categories is the maximum over their
        sub-centers.
      products: dtype of the factors of the matrix products.

    Returns:
      int32 `[R, K]`, categories by decreasing cosine, excluding the row's own
      category. Padding rows have arbitrary values.
    """
    size, home = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    length = proxies.shape[0]
    unit, _ = rows_lib.unit(proxies.reshape(length, subcenters, -1))
    unit = unit.reshape(length, -1)
    blocks = Chunks(length, _QUERIES)
    narrow = products != "float32"

    def hop(carry, step):
        neighbors, visiting = carry
        first = (home + step) % size * length
        count = jnp.clip(num_categories - first, 0, length)

        def extend(neighbors, index):
            queries = blocks.read(index, unit)
            queries = queries.reshape(len(queries), subcenters, -1)
            before = blocks.read(index, neighbors)
            start = before
            if narrow:
                empty = nearest.none(len(queries), min(k + _SPARE, length))
                start = rows_lib.varying(empty)
            own = home * length + blocks.positions(index)[0]
            better = nearest.extend(
                start,
                queries,
                own,
                visiting,
                first,
                count,
                _ROWS,
                products,
                are_unit=True,
            )
            if narrow:
                better = _checked(better, queries, visiting, first)
                better = nearest.merge(before, better)
            return blocks.write(index, neighbors, better), None

        neighbors, _ = jax.lax.scan(extend, neighbors, blocks.indices)
        ring = [(device, (device - 1) % size) for device in range(size)]
        return (neighbors, jax.lax.ppermute(visiting, AXIS, ring)), None

    neighbors = rows_lib.varying(nearest.none(length, k))
    (neighbors, _), _ = jax.lax.scan(hop, (neighbors, unit), jnp.arange(size))
    return neighbors[1]


def _checked(
    candidates: nearest.Nearest,
    queries: jax.Array,
    rows: jax.Array,
    first: jax.Array,
) -> nearest.Nearest:
    """Recomputes the candidates' cosines in f32."""
    cosines, ids = candidates
    candidate_rows = rows[jnp.maximum(ids - first, 0)]
    candidate_rows = candidate_rows.reshape(*ids.shape, *queries.shape[1:])
    exact = jnp.einsum(
        "qmd,qknd->qkmn",
        queries,
        candidate_rows,
        precision=jax.lax.Precision.HIGHEST,
    ).max((2, 3))
    return jnp.where(jnp.isneginf(cosines), -jnp.inf, exact), ids
