"""Deciding: exact scoring of the rows in shortlisted groups."""

import jax
import jax.numpy as jnp

from mixer_jax.runtime.mesh import AXIS
from mixer_jax.search import short_factors
from mixer_jax.search.held import GROUP, Held, places
from mixer_jax.search.queries import Asked
from mixer_jax.search.shortlists import Shortlist

# Number of f32 values gathered at once for scoring; they fit in a CPU's cache,
# or in an accelerator's memory.
_SCORED = {"cpu": 2**20}
_SCORED_ELSEWHERE = 2**26


def decide(
    held: Held, lists: Shortlist, asked: Asked, k: int
) -> tuple[jax.Array, jax.Array]:
    """Scores the rows of shortlisted groups with their full vectors.

    Args:
      held: the rows to search, which form the groups.
      lists: the shortlists of all devices for the query rows.
      asked: Q query rows.
      k: number of neighbors to return, at most the number of listed rows.

    Returns:
      The k nearest rows int32 `[Q, k]` and their cosines f32 `[Q, k]`, which
      are -inf where fewer rows remain; ties go to the lower row.
    """
    width = asked.row.shape[1]
    whole_NxRxC = held.whole.reshape(-1, GROUP, width)
    groups = held.block // GROUP
    # Sort the groups so that ties go to the lower row.
    group_QxG = _rising(lists.group[:, :-1])

    def score(query):
        asked, group_G = query
        mine_G, slot_G = held.holder(group_G // groups)
        local_G = slot_G * groups + group_G % groups
        near_GxRxC = whole_NxRxC.at[local_G].get(mode="clip")
        cosine_N = jnp.matmul(
            near_GxRxC.reshape(-1, width),
            asked.row,
            precision=jax.lax.Precision.HIGHEST,
        )
        place_GxR = places(group_G)
        real_GxR = held.real(places(local_G), place_GxR, asked)
        real_GxR &= (mine_G & (group_G >= 0))[:, None]
        cosine_N = jnp.where(real_GxR.reshape(-1), cosine_N, -jnp.inf)
        return cosine_N, place_GxR.reshape(-1)

    # Use a power of two that divides the number of rows, so that all batches
    # have the same size. At least two batches: XLA may round differently
    # outside of loops, and the result must not depend on the number of devices.
    scored = _SCORED.get(jax.default_backend(), _SCORED_ELSEWHERE)
    at_once = max(scored // (group_QxG.shape[1] * GROUP * width), 1)
    count = len(asked.row)
    at_once = min(1 << at_once.bit_length() - 1, count & -count)
    at_once = min(at_once, max(count // 2, 1))
    cosine_QxN, place_QxN = jax.lax.map(
        score, (asked, group_QxG), batch_size=at_once
    )
    # Each row is scored only by the device that holds it.
    cosine_QxN = jax.lax.pmax(cosine_QxN, AXIS)
    cosine_QxK, at_QxK = jax.lax.top_k(cosine_QxN, k)
    return jnp.take_along_axis(place_QxN, at_QxK, axis=1), cosine_QxK


def bound(lists: Shortlist, error_Q: jax.Array, width: int) -> jax.Array:
    """Returns a bound on the cosines of rows outside the listed groups.

    Args:
      lists: the shortlists of all devices.
      error_Q: f32, bound on the part of the products' errors that the
        shortlists do not include yet.
      width: number of dimensions of the full vectors.

    Returns:
      f32 `[Q]`; -inf if all groups are listed.
    """
    # Hosts may round differently, but must repeat the same searches.
    error_Q = jax.lax.pmax(error_Q, AXIS)
    # Use the minimum instead of slicing out the last column: XLA lowers
    # `top_k` followed by a slice to a full sort.
    return lists.largest.min(1) + error_Q + 2 * short_factors.rounding(width)


def _rising(name_NxM: jax.Array) -> jax.Array:
    """Sorts int32 rows in [-1, 2^30]; much faster on CPUs than `jnp.sort`."""
    # Integers added to the bits of 1.0 are floats in the same order.
    one = 0x3F800000
    order = jax.lax.bitcast_convert_type(name_NxM + one, jnp.float32)
    # Pad by one column: XLA lowers a full-width `top_k` to a sort.
    spare = jnp.full((len(order), 1), -jnp.inf)
    falling, _ = jax.lax.top_k(
        jnp.concatenate([-order, spare], axis=1), order.shape[1]
    )
    return jax.lax.bitcast_convert_type(-falling, jnp.int32) - one
