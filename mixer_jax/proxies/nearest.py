"""Streaming search for the nearest rows of each query, in bounded memory."""

import jax
import jax.numpy as jnp

from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.chunks import Chunks

Nearest = tuple[jax.Array, jax.Array]  # cosines f32, ids int32, both [Q, K]

_GROUP = 32  # columns per group in `top_k`


def none(queries: int, k: int) -> Nearest:
    """Returns the initial result of a search: ids -1 and cosines -inf."""
    return jnp.full((queries, k), -jnp.inf), jnp.full((queries, k), -1)


def extend(
    nearest: Nearest,
    queries: jax.Array,
    own: jax.Array,
    rows: jax.Array,
    first: jax.Array,
    count: jax.Array,
    chunk: int,
    products: str = "float32",
    approximate: bool = False,
    are_unit: bool = False,
) -> Nearest:
    """Updates each query's nearest rows by searching more rows.

    Args:
      nearest: each query's K nearest so far, by decreasing cosine;
        ties go to the earlier row.
      queries: f32 `[Q, m, D]`, m unit vectors per query; a query's cosine to a
        row is the maximum over all pairs of their vectors.
      own: int32 `[Q]`, the id to exclude for each query.
      rows: `[R, n D]`, the n sub-centers of each id side by side.
      first: int32 scalar, the id of the first row; ids are consecutive.
      count: int32 scalar, the number of real rows, which precede the padding.
      chunk: maximum number of rows to score at once.
      products: dtype of the factors; sums are f32.
      approximate: whether to use `lax.approx_max_k` within a chunk, which a
        TPU computes without writing the cosines to memory.
      are_unit: whether the rows' vectors already have unit length.

    Returns:
      Each query's K nearest rows, by decreasing cosine.
    """
    chunks = Chunks(rows.shape[0], chunk)
    size, dim = nearest[0].shape[1], queries.shape[-1]
    factor = queries.reshape(-1, dim)

    def visit(nearest, index):
        positions, fresh = chunks.positions(index)
        ids = first + positions
        allowed = (fresh & (positions < count))[None, :]
        allowed &= ids[None, :] != own[:, None]
        centers = chunks.read(index, rows).reshape(-1, dim)
        if not are_unit:
            centers, _ = rows_lib.unit(centers)
        cosines = rows_lib.product("qd,rd->qr", factor, centers, products)
        if cosines.shape != (len(own), len(ids)):
            cosines = cosines.reshape(len(own), queries.shape[1], len(ids), -1)
            cosines = cosines.max((1, 3))
        cosines = jnp.where(allowed, cosines, -jnp.inf)
        k = min(size, len(ids))
        if approximate:
            cosines, places = jax.lax.approx_max_k(cosines, k)
        else:
            cosines, places = top_k(cosines, k)
        return merge(nearest, (cosines, ids[places])), None

    return jax.lax.scan(visit, nearest, chunks.indices)[0]


def top_k(values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Computes `lax.top_k` of f32 `[Q, N]`, faster if N is much larger than k.

    Only the k groups of columns with the largest maxima are sorted, as they
    contain the k largest values. Ties go to the lower column, as in
    `lax.top_k`.
    """
    queries, width = values.shape
    groups = width // _GROUP
    if width % _GROUP or groups < 2 * k:
        return jax.lax.top_k(values, k)
    grouped = values.reshape(queries, groups, _GROUP)
    _, best = jax.lax.top_k(grouped.max(-1), k)
    best = jnp.sort(best, 1)
    candidates = jnp.take_along_axis(grouped, best[:, :, None], 1)
    largest, places = jax.lax.top_k(candidates.reshape(queries, -1), k)
    group = jnp.take_along_axis(best, places // _GROUP, 1)
    return largest, group * _GROUP + places % _GROUP


def merge(nearest: Nearest, candidates: Nearest) -> Nearest:
    """Returns the K nearest of `nearest [Q, K]` and `candidates [Q, N]`."""
    cosines, ids = (
        jnp.concatenate(both, 1)
        for both in zip(nearest, candidates, strict=True)
    )
    return keep(cosines, ids, nearest[0].shape[1])


def keep(cosines: jax.Array, ids: jax.Array, k: int) -> Nearest:
    """Returns the k nearest of `[Q, N]` candidates, by decreasing cosine."""
    cosines, positions = jax.lax.top_k(cosines, k)
    return cosines, jnp.take_along_axis(ids, positions, 1)
