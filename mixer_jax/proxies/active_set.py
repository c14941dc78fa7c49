"""Selection of the active set: the M rows per device that a step scores.

All functions cost O(B K log(B K) + M log M), independent of C.
"""

import jax
import jax.numpy as jnp

from mixer_jax.runtime.mesh import AXIS

_NONE = jnp.iinfo(jnp.int32).max  # sorts after every row
_WEIGHT = 4096  # weight of the nearest neighbor; divided by r for the r-th


def neighbors(
    graph: jax.Array, labels: jax.Array, start: jax.Array
) -> jax.Array:
    """Looks up the labels' neighbors on the devices that hold their rows.

    Call this inside `jax.shard_map` over the mesh axis.

    Args:
      graph: int32 `[R, K]`, this device's rows of the class graph.
      labels: int32 `[B]`, the labels of the whole batch.
      start: int32 scalar, the category of the device's first row.

    Returns:
      int32 `[B, K]`, the same on every device.
    """
    local = labels - start
    here = (local >= 0) & (local < graph.shape[0])
    own = graph[jnp.where(here, local, 0)]
    return jax.lax.psum(jnp.where(here[:, None], own, 0), AXIS)


def select(
    key: jax.Array,
    labels: jax.Array,
    neighbors: jax.Array,
    start: jax.Array,
    count: jax.Array,
    size: int,
    uniform: int,
) -> tuple[jax.Array, jax.Array]:
    """Selects a device's rows: positives, neighbors and random rows.

    Positives are always included. Neighbors follow, ranked by their weights
    summed over the samples, until there are `size - uniform` rows including
    the positives. The rest is a stratified uniform sample of all other real
    rows, because a stale graph misses the current hard negatives.

    Args:
      key: a PRNG key, different on each device.
      labels: int32 `[B]`, the labels of the whole batch.
      neighbors: int32 `[B, K]`, categories by decreasing cosine; negative
        entries are ignored.
      start: int32 scalar, the category of the device's first row.
      count: int32 scalar, the device's number of real rows.
      size: M, at least the maximum number of positives and at most the
        number of the device's rows, including padding.
      uniform: minimum number of rows to draw at random, unless the positives
        need more than `size - uniform` rows.

    Returns:
      The row numbers on this device, int32 `[M]`, sorted and unique (padding
      rows, from `count` on, are included only after all real rows), and their
      weights, f32 `[M]`: a random row represents its share of all rows that
      are neither positives nor selected neighbors; all others have weight 1.
    """
    taken, number = _nearest(labels, neighbors, start, count, size, uniform)
    real = jnp.minimum(size, count)
    share = (count - number) / jnp.maximum(real - number, 1)
    others = _spread(key, count - number, real - number, size)
    # Map v to the v-th untaken row: add the number of taken rows before it.
    before = jnp.where(taken < _NONE, taken - jnp.arange(len(taken)), _NONE)
    others += jnp.searchsorted(before, others, side="right")
    order = jnp.arange(size)
    padding = count + order - (real - number)
    others = jnp.where(order < real - number, others, padding)
    weights = jnp.where(jnp.arange(len(taken) + size) < len(taken), 1, share)
    rows, weights = jax.lax.sort(
        (jnp.concatenate([taken, others]), weights), num_keys=1
    )
    return rows[:size], weights[:size]


def _nearest(labels, neighbors, start, count, size, uniform):
    """Returns the positives and best neighbors, and their number.

    The rows are int32 `[<= M]`, sorted and padded at the end with _NONE.
    """
    batch, k = neighbors.shape
    rows = jnp.concatenate([labels, neighbors.reshape(-1)]) - start
    rows = jnp.where((rows >= 0) & (rows < count), rows, _NONE)
    order = jnp.arange(len(rows))
    weight = jnp.where(order < batch, 0, _WEIGHT // (1 + (order - batch) % k))
    # Sorting groups equal rows into runs; a positive comes first in its run.
    rows, order, weight = jax.lax.sort((rows, order, weight), num_keys=2)
    first = jnp.concatenate([jnp.array([True]), rows[1:] != rows[:-1]])
    run = jnp.cumsum(first) - 1
    score = jax.ops.segment_sum(
        weight, run, len(rows), indices_are_sorted=True
    )[run]
    distinct = first & (rows < _NONE)
    positive = distinct & (order < batch)
    score = jnp.where(positive, _NONE, jnp.where(distinct, score, -1))
    _, rows = jax.lax.sort((-score, rows), num_keys=1)
    wanted = jnp.maximum(jnp.sum(positive), size - uniform)
    number = jnp.minimum(jnp.sum(distinct), wanted)
    rows = rows[:size]
    return jnp.sort(
        jnp.where(jnp.arange(len(rows)) < number, rows, _NONE)
    ), number


def _spread(key, width, number, size):
    """Draws `number` distinct integers below `width`, int32 `[size]`.

    One integer is drawn from each of `number` strata whose widths differ by at
    most one, and all are rotated by one random offset, so that every integer
    is equally likely. Entries from `number` on are arbitrary.
    """
    stratum_key, offset_key = jax.random.split(key)
    order = jnp.arange(size)
    strata, width = jnp.maximum(number, 1), jnp.maximum(width, 1)
    narrow, wider = width // strata, width % strata
    low = order * narrow + jnp.minimum(order, wider)
    draw = jax.random.randint(stratum_key, (size,), 0, narrow + (order < wider))
    return (low + draw + jax.random.randint(offset_key, (), 0, width)) % width
