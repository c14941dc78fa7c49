"""Deciding: exact scoring of the rows in shortlisted groups."""

import jax
import jax.numpy as jnp

from mixer_jax.runtime.mesh import AXIS
from mixer_jax.search import short_factors
from mixer_jax.search.screening import GROUP, Placed, Shortlist

# Number of f32 values gathered at once for scoring; they fit in a CPU's cache,
# or in an accelerator's memory.
_SCORED = {"cpu": 2**20}
_SCORED_ELSEWHERE = 2**26


def decide(
    placed: Placed,
    lists: Shortlist,
    error_Q: jax.Array,
    row_QxC: jax.Array,
    k: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores the rows of shortlisted groups with their full vectors.

    Args:
      placed: the rows to search in, which form the groups.
      lists: each device's shortlists for the query rows.
      error_Q: f32, bound on the sum of two rounding errors: that of the query
        row's factor and that of any placed row's factor.
      row_QxC: f32, the query rows.
      k: number of neighbors to return.

    Returns:
      The k nearest int32 `[Q, k]`, their cosines f32 `[Q, k]`, and bool `[Q]`:
      whether no other group can hold a nearer row.
    """
    width = row_QxC.shape[1]
    whole_NxRxC = placed.whole.reshape(-1, GROUP, width)
    groups = placed.block // GROUP
    lists = lists.of_all_devices()
    # Sort the groups so that ties go to the lower row.
    group_QxG = _rising(lists.group[:, :-1])

    def score(asked):
        row_C, group_G = asked
        mine_G, slot_G = placed.holder(group_G // groups)
        near_GxRxC = whole_NxRxC.at[slot_G * groups + group_G % groups].get(
            mode="clip"
        )
        cosine_N = jnp.matmul(
            near_GxRxC.reshape(-1, width),
            row_C,
            precision=jax.lax.Precision.HIGHEST,
        )
        place_GxR = group_G[:, None] * GROUP + jnp.arange(GROUP)[None, :]
        real_GxR = (mine_G & (group_G >= 0))[:, None]
        real_GxR &= place_GxR < placed.count
        cosine_N = jnp.where(real_GxR.reshape(-1), cosine_N, -jnp.inf)
        return cosine_N, place_GxR.reshape(-1)

    # Use a power of two that divides the number of rows, so that all batches
    # have the same size. At least two batches: XLA may round differently
    # outside of loops, and the result must not depend on the number of devices.
    scored = _SCORED.get(jax.default_backend(), _SCORED_ELSEWHERE)
    at_once = max(scored // (group_QxG.shape[1] * GROUP * width), 1)
    count = len(row_QxC)
    at_once = min(1 << at_once.bit_length() - 1, count & -count)
    at_once = min(at_once, max(count // 2, 1))
    cosine_QxN, place_QxN = jax.lax.map(
        score, (row_QxC, group_QxG), batch_size=at_once
    )
    # Each row is scored by the one device that holds it.
    cosine_QxN = jax.lax.pmax(cosine_QxN, AXIS)
    cosine_QxK, at_QxK = jax.lax.top_k(cosine_QxN, k)
    near_QxK = jnp.take_along_axis(place_QxN, at_QxK, axis=1)
    # Use the minimum instead of slicing out the last column: XLA lowers
    # `top_k` followed by a slice to a full sort.
    bound_Q = lists.largest.min(1) + error_Q + 2 * short_factors.rounding(width)
    return near_QxK, cosine_QxK, cosine_QxK.min(1) > bound_Q


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
