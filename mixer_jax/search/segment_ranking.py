"""Positions of given rows of a segment in each query's full ranking."""

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.runtime.mesh import AXIS
from mixer_jax.search import segment_search
from mixer_jax.search.queries import Asked
from mixer_jax.search.segments import Segment


def look_up(
    segment: Segment,
    asked: Asked,
    relevant_QxR: np.ndarray,
    cosine_QxR: jax.Array,
    *,
    first: int,
    blocks: int,
) -> jax.Array:
    """Returns the cosines of given rows.

    Args:
      segment: the segment to look in.
      asked: the queries.
      relevant_QxR: int32, row numbers in the whole set; -1 for none.
      cosine_QxR: f32, the cosines from other segments; -inf for none.
      first: number of the segment's first row in the whole set.
      blocks: number of blocks that hold rows.

    Returns:
      f32 `[Q, R]`; -inf where neither this segment nor the others have the
      row, or it is hidden from the query.
    """
    slots = np.int32(-(-blocks // segment.mesh.size))
    relevant_QxR = relevant_QxR - np.int32(first)
    return _look_up(segment, asked, relevant_QxR, cosine_QxR, slots)


@jax.jit
def _look_up(segment, asked, relevant_QxR, cosine_QxR, slots):
    def local(segment, asked, relevant_QxR, cosine_QxR, slots):
        def visit(step, found_QxR):
            cosine_QxT, number_T = segment_search.scores(segment, asked, step)
            place_QxR = relevant_QxR - number_T[0]
            here_QxR = (place_QxR >= 0) & (place_QxR < len(number_T))
            place_QxR = jnp.clip(place_QxR, 0, len(number_T) - 1)
            there_QxR = jnp.take_along_axis(cosine_QxT, place_QxR, axis=1)
            return jnp.where(here_QxR, there_QxR, found_QxR)

        steps = slots * segment_search.steps_per_block(segment)
        found_QxR = jax.lax.fori_loop(0, steps, visit, cosine_QxR)
        return jax.lax.pmax(found_QxR, AXIS)

    return segment_search.on_devices(
        local, segment, asked, relevant_QxR, cosine_QxR, slots
    )


def count_ahead(
    segment: Segment,
    asked: Asked,
    relevant_QxR: np.ndarray,
    cosine_QxR: jax.Array,
    ahead_QxR: jax.Array,
    *,
    first: int,
    blocks: int,
) -> jax.Array:
    """Adds the number of a segment's rows ahead of given rows.

    Args:
      segment: the segment whose rows are counted.
      asked: the queries.
      relevant_QxR: int32, row numbers in the whole set.
      cosine_QxR: f32, their cosines, from `look_up`.
      ahead_QxR: int32, the number of rows ahead in other segments.
      first: number of the segment's first row in the whole set.
      blocks: number of blocks that hold rows.

    Returns:
      int32 `[Q, R]`; among rows with equal cosines, lower numbers are ahead.
    """
    slots = np.int32(-(-blocks // segment.mesh.size))
    relevant_QxR = relevant_QxR - np.int32(first)
    return _count_ahead(
        segment, asked, relevant_QxR, cosine_QxR, ahead_QxR, slots
    )


@jax.jit
def _count_ahead(segment, asked, relevant_QxR, cosine_QxR, ahead_QxR, slots):
    def local(segment, asked, relevant_QxR, cosine_QxR, ahead_QxR, slots):
        def visit(step, ahead_QxR):
            cosine_QxT, number_T = segment_search.scores(segment, asked, step)
            cosine_Qx1xT = cosine_QxT[:, None, :]
            cosine_QxRx1 = cosine_QxR[:, :, None]
            lower_QxRxT = number_T[None, None, :] < relevant_QxR[:, :, None]
            tied_QxRxT = (cosine_Qx1xT == cosine_QxRx1) & lower_QxRxT
            ahead_QxRxT = (cosine_Qx1xT > cosine_QxRx1) | tied_QxRxT
            return ahead_QxR + ahead_QxRxT.sum(-1, dtype=jnp.int32)

        steps = slots * segment_search.steps_per_block(segment)
        none_QxR = jnp.zeros(relevant_QxR.shape, jnp.int32)
        here_QxR = jax.lax.fori_loop(0, steps, visit, none_QxR)
        return ahead_QxR + jax.lax.psum(here_QxR, AXIS)

    return segment_search.on_devices(
        local, segment, asked, relevant_QxR, cosine_QxR, ahead_QxR, slots
    )
