"""The nearest rows of each query, streaming, in bounded memory."""

import jax
import jax.numpy as jnp

from mixer_jax.proxies.chunks import Chunks

Nearest = tuple[jax.Array, jax.Array]  # cosines f32, ids int32, both [Q, K]


def none(queries: int, k: int) -> Nearest:
    """Returns the nearest of no rows: ids -1, below every cosine."""
    return jnp.full((queries, k), -jnp.inf), jnp.full((queries, k), -1)


def extend(
    nearest: Nearest,
    queries: jax.Array,
    own: jax.Array,
    rows: jax.Array,
    first: jax.Array,
    count: jax.Array,
    chunk: int,
) -> Nearest:
    """Looks for nearer ones among more rows.

    Args:
      nearest: each query's K nearest so far, falling; ties keep the earlier.
      queries: f32 `[Q, D]`, unit vectors.
      own: int32 `[Q]`, the id that is no neighbour of the query.
      rows: f32 `[R, D]`, unit vectors.
      first: int32 scalar, the id of the first row; the others count on.
      count: int32 scalar; rows from there on are padding.
      chunk: the most rows that are scored at once.

    Returns:
      Each query's K nearest, falling.
    """
    chunks = Chunks(rows.shape[0], chunk)
    k = nearest[0].shape[1]

    def visit(nearest, index):
        positions, fresh = chunks.positions(index)
        ids = first + positions
        allowed = (fresh & (positions < count))[None, :]
        allowed &= ids[None, :] != own[:, None]
        cosines = queries @ chunks.read(index, rows).T
        cosines = jnp.where(allowed, cosines, -jnp.inf)
        return keep(
            jnp.concatenate([nearest[0], cosines], 1),
            jnp.concatenate(
                [nearest[1], jnp.broadcast_to(ids[None, :], cosines.shape)], 1
            ),
            k,
        ), None

    return jax.lax.scan(visit, nearest, chunks.indices)[0]


def keep(cosines: jax.Array, ids: jax.Array, k: int) -> Nearest:
    """Keeps the k nearest of the candidates `[Q, N]`, falling."""
    cosines, positions = jax.lax.top_k(cosines, k)
    return cosines, jnp.take_along_axis(ids, positions, 1)
