"""Searching a segment: by screening and deciding, or by scoring every row."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.runtime.mesh import AXIS
from mixer_jax.search import deciding, short_factors
from mixer_jax.search.held import GROUP, WHOLE
from mixer_jax.search.queries import Asked
from mixer_jax.search.segments import Segment
from mixer_jax.search.shortlists import Shortlist

_FEW = 16  # memory-bound up to this many queries: multiply in f32
_CHUNK = 2**15  # rows whose groups are sorted at once
_TILE = 1024  # rows multiplied by many queries at once


class Best(flax.struct.PyTreeNode):
    """The nearest rows so far, for each of Q queries.

    Attributes:
      number: int32 `[Q, k]`, rows; -1 where there are fewer.
      cosine: f32 `[Q, k]`, descending.
      bound: f32 `[Q]`, bound on the cosines of unscored rows.
    """

    number: jax.Array
    cosine: jax.Array
    bound: jax.Array

    @classmethod
    def empty(cls, count: int, k: int) -> "Best":
        """Returns an empty result for `count` queries."""
        return cls(
            jnp.full((count, k), -1, jnp.int32),
            jnp.full((count, k), -jnp.inf, jnp.float32),
            jnp.full(count, -jnp.inf, jnp.float32),
        )

    def sure(self, k: int) -> np.ndarray:
        """Returns whether the first k are certain to be the nearest, `[Q]`."""
        # A row at the bound might tie, and have a lower number.
        return np.isneginf(self.bound) | (self.cosine[:, k - 1] > self.bound)

    def offer(
        self, number_QxN: jax.Array, cosine_QxN: jax.Array, bound_Q: jax.Array
    ) -> "Best":
        """Merges candidates, whose numbers are higher than the current ones."""
        cosine = jnp.concatenate([self.cosine, cosine_QxN], axis=1)
        number = jnp.concatenate([self.number, number_QxN], axis=1)
        cosine, at = jax.lax.top_k(cosine, self.cosine.shape[1])
        number = jnp.take_along_axis(number, at, axis=1)
        number = jnp.where(cosine == -jnp.inf, -1, number)
        return Best(number, cosine, jnp.maximum(self.bound, bound_Q))


def screened(
    segment: Segment,
    allowed: jax.Array | None,
    asked: Asked,
    best: Best,
    *,
    first: int,
    blocks: int,
    kept: int,
) -> Best:
    """Searches a segment: screens all groups, then scores the best exactly.

    Args:
      segment: the rows to search in.
      allowed: bool `[N]`, the rows that may be found, sharded like them; all if
        None.
      asked: the queries; `skip` is relative to the segment.
      best: the result of searching the previous segments.
      first: number of the segment's first row.
      blocks: number of blocks that hold rows.
      kept: number of groups to score per query.

    Returns:
      The nearest rows of all segments so far; see `Best.sure`.
    """
    few = len(asked.row) <= _FEW
    dtype = jnp.dtype(jnp.float32) if few else short_factors.fast_dtype()
    slots = np.int32(-(-blocks // segment.mesh.size))
    first = np.int32(first)
    return _screened(
        *(segment, allowed, asked, best, first, slots),
        kept=min(kept, len(segment.whole) // GROUP),
        dtype=dtype,
        tile=segment.block if few else min(_TILE, segment.block),
    )


@partial(jax.jit, static_argnames=("kept", "dtype", "tile"))
def _screened(
    segment, allowed, asked, best, first, slots, *, kept, dtype, tile
):
    def local(segment, asked, best, first, slots):
        mixed_QxC = short_factors.mix(asked.row)
        query_QxC = mixed_QxC.astype(dtype)
        lists = _screen(segment, query_QxC, asked.label, slots, kept, tile)
        lists = lists.of_all_devices()
        near, cosine = deciding.decide(
            segment, lists, asked, min(best.number.shape[1], kept * GROUP)
        )
        moved = mixed_QxC - query_QxC.astype(jnp.float32)
        # No rounded row is longer than a unit row plus its rounding error.
        longest = 1 + segment.slack.max()
        error_Q = jnp.sqrt(jnp.square(moved).sum(1)) * longest
        error_Q += short_factors.MIXING
        bound_Q = deciding.bound(lists, error_Q, asked.row.shape[1])
        return best.offer(near + first, cosine, bound_Q)

    segment = _only(segment, allowed)
    return on_devices(local, segment, asked, best, first, slots)


def _screen(
    segment: Segment,
    query_QxC: jax.Array,
    label_Q: jax.Array | None,
    slots: jax.Array,
    kept: int,
    tile: int,
) -> Shortlist:
    """Returns this device's shortlists for queries `[Q, C]`."""
    local = len(segment.whole)
    chunk = min(local & -local, _CHUNK)  # a divisor
    groups = chunk // GROUP

    def visit(step, lists):
        largest_QxG = _maxima(
            segment, query_QxC, label_Q, step * chunk, (min(tile, chunk), chunk)
        )
        every_G = jnp.ones(groups, jnp.bool)
        return lists.offer(largest_QxG, step * groups, every_G)

    lists = Shortlist.empty(len(query_QxC), kept)
    steps = (slots * segment.block + chunk - 1) // chunk
    lists = jax.lax.fori_loop(0, steps, visit, lists)
    # Convert group indices on this device to those in the segment.
    each = segment.block // GROUP
    block = lists.group // each * segment.mesh.size + jax.lax.axis_index(AXIS)
    number = block * each + lists.group % each
    return lists.replace(group=jnp.where(lists.group < 0, -1, number))


def _maxima(
    segment: Segment,
    query_QxC: jax.Array,
    label_Q: jax.Array | None,
    start: jax.Array,
    sizes: tuple[int, int],
) -> jax.Array:
    """Returns the largest bound on a cosine per query and group of a chunk.

    Args:
      segment: the rows.
      query_QxC: the queries, in the dtype of the products.
      label_Q: see `Asked`.
      start: the first row of the chunk, on this device.
      sizes: rows per tile (multiplied at once) and per chunk.

    Returns:
      f32 `[Q, chunk / 8]`; -inf where all rows of a group are absent or hidden.
    """
    tile, chunk = sizes
    count = len(query_QxC)

    def meet(number, largest_QxG):
        def part(x):
            return jax.lax.dynamic_slice_in_dim(x, start + number * tile, tile)

        short_TxC = part(segment.short).astype(query_QxC.dtype)
        product_TxQ = short_factors.products(short_TxC, query_QxC)
        limit_TxQ = product_TxQ * part(segment.scale)[:, None]
        limit_TxQ += part(segment.slack)[:, None]
        hidden_TxQ = ~part(segment.present)[:, None]
        if label_Q is not None:
            label_T = part(segment.label)[:, None]
            hidden_TxQ |= (label_T == label_Q[None, :]) & (label_T >= 0)
        limit_TxQ = jnp.where(hidden_TxQ, -jnp.inf, limit_TxQ)
        # Queries are the minor axis, so the maxima are vectorized.
        largest_QxH = limit_TxQ.reshape(-1, GROUP, count).max(1).T
        return jax.lax.dynamic_update_slice_in_dim(
            largest_QxG, largest_QxH, number * tile // GROUP, axis=1
        )

    largest_QxG = jnp.zeros((count, chunk // GROUP), jnp.float32)
    return jax.lax.fori_loop(0, chunk // tile, meet, largest_QxG)


def scored(
    segment: Segment,
    allowed: jax.Array | None,
    asked: Asked,
    best: Best,
    *,
    first: int,
    blocks: int,
) -> Best:
    """Searches a segment by scoring all rows; see `screened`."""
    slots = np.int32(-(-blocks // segment.mesh.size))
    return _scored(segment, allowed, asked, best, np.int32(first), slots)


@jax.jit
def _scored(segment, allowed, asked, best, first, slots):
    def local(segment, asked, best, first, slots):

        def visit(step, best):
            cosine_QxT, number_T = scores(segment, asked, step)
            number_QxT = jnp.broadcast_to(number_T[None, :], cosine_QxT.shape)
            return best.offer(number_QxT, cosine_QxT, best.bound)

        steps = slots * steps_per_block(segment)
        mine = Best.empty(len(asked.row), best.number.shape[1])
        mine = jax.lax.fori_loop(0, steps, visit, mine)
        number, cosine = _of_all_devices(mine)
        return best.offer(number + first, cosine, best.bound)

    segment = _only(segment, allowed)
    return on_devices(local, segment, asked, best, first, slots)


def _of_all_devices(best: Best) -> tuple[jax.Array, jax.Array]:
    """Returns the nearest rows of all devices; ties go to lower numbers."""
    gather = partial(jax.lax.all_gather, axis_name=AXIS, axis=1, tiled=True)
    order = -gather(best.cosine), gather(best.number)
    negative, number = jax.lax.sort(order, dimension=1, num_keys=2)
    k = best.number.shape[1]
    return number[:, :k], -negative[:, :k]


def steps_per_block(segment: Segment) -> int:
    """Returns the number of calls of `scores` for a block."""
    return -(-segment.block // _TILE)


def scores(
    segment: Segment, asked: Asked, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scores a tile of this device's rows with their full vectors.

    Returns:
      Cosines f32 `[Q, T]`, -inf where a row is hidden, and the rows' numbers
      in the segment, int32 `[T]`.
    """
    tile = min(_TILE, segment.block)
    each = segment.block // tile
    block = step // each * segment.mesh.size + jax.lax.axis_index(AXIS)
    number_T = block * segment.block + step % each * tile + jnp.arange(tile)
    local_T = step * tile + jnp.arange(tile)
    whole_TxC = jax.lax.dynamic_slice_in_dim(segment.whole, step * tile, tile)
    cosine_QxT = jnp.einsum(
        "qc,tc->qt", asked.row, whole_TxC, precision=jax.lax.Precision.HIGHEST
    )
    # Scores are compared for equality across calls. The barrier keeps XLA from
    # fusing later operations into the product, which could change its rounding.
    cosine_QxT = jax.lax.optimization_barrier(cosine_QxT)
    real_QxT = jax.vmap(partial(segment.real, local_T, number_T))(asked)
    return jnp.where(real_QxT, cosine_QxT, -jnp.inf), number_T


def _only(segment: Segment, allowed: jax.Array | None) -> Segment:
    """Returns the segment with only the allowed rows."""
    if allowed is None:
        return segment
    return segment.replace(present=segment.present & allowed)


def on_devices(function: Callable, segment: Segment, *others: Any) -> Any:
    """Calls `function(segment, *others)` on each of a segment's devices.

    The other arguments are replicated; all devices must return equal results.
    """
    return jax.shard_map(
        function,
        mesh=segment.mesh,
        in_specs=(segment.specs(), *[WHOLE] * len(others)),
        out_specs=WHOLE,
        # The checker requires annotations for loops that start from constants,
        # and for gathered arrays, which are equal on all devices.
        check_vma=False,
    )(segment, *others)
