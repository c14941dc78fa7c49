"""The active set: M rows of a device that a step compares with.

Everything here costs O(B K log(B K) + M log M), whatever C is.
"""

import jax
import jax.numpy as jnp

from mixer_jax.runtime.mesh import AXIS

_NONE = jnp.iinfo(jnp.int32).max  # sorts behind every row
_WEIGHT = 4096  # of a nearest neighbour; the r-th has 1 / r of it


def neighbours(
    graph: jax.Array, labels: jax.Array, start: jax.Array
) -> jax.Array:
    """Looks the labels' neighbours up, each where its row is.

    Call it inside `jax.shard_map` over the mesh axis.

    Args:
      graph: int32 `[R, K]`, this device's rows of the class graph.
      labels: int32 `[B]`, of the whole batch.
      start: int32 scalar, the category of the device's first row.

    Returns:
      int32 `[B, K]`, the same on every device.
    """
    local = labels - start
    here = (local >= 0) & (local < graph.shape[0])
    found = graph[jnp.where(here, local, 0)]
    return jax.lax.psum(jnp.where(here[:, None], found, 0), AXIS)


def select(
    key: jax.Array,
    labels: jax.Array,
    neighbours: jax.Array,
    start: jax.Array,
    count: jax.Array,
    size: int,
    uniform: int,
) -> tuple[jax.Array, jax.Array]:
    """Selects a device's rows: positives, neighbours, and random ones.

    Positives are always in. Neighbours follow by how near they are and to how
    many samples, up to `size - uniform` rows with the positives. The rest is
    drawn uniformly from all other real rows, evenly spread: a graph that has
    grown stale shows hard negatives of yesterday only.

    Args:
      key: a PRNG key, another one on each device.
      labels: int32 `[B]`, of the whole batch.
      neighbours: int32 `[B, K]`, categories by falling cosine; entries below
        0 are ignored.
      start: int32 scalar, the category of the device's first row.
      count: int32 scalar, the device's real rows.
      size: M, at least as large as the number of positives there can be, and
        at most the device's rows, padding included.
      uniform: the least rows to draw at random, as far as positives allow.

    Returns:
      int32 `[M]`, row numbers on this device, sorted and unique; those of
      padding, from `count` on, only after all real ones are in. And f32 `[M]`,
      how many rows each stands for: a random one for its share of all that
      were neither positives nor taken neighbours, the others for themselves.
    """
    taken, number = _nearest(labels, neighbours, start, count, size, uniform)
    real = jnp.minimum(size, count)
    share = (count - number) / jnp.maximum(real - number, 1)
    others = _spread(key, count - number, real - number, size)
    # The v-th row that is not taken: as many rows before it as are taken.
    before = jnp.where(taken < _NONE, taken - jnp.arange(len(taken)), _NONE)
    others += jnp.searchsorted(before, others, side="right")
    order = jnp.arange(size)
    padding = count + order - (real - number)
    others = jnp.where(order < real - number, others, padding)
    stand_for = jnp.where(jnp.arange(len(taken) + size) < len(taken), 1, share)
    rows, stand_for = jax.lax.sort(
        (jnp.concatenate([taken, others]), stand_for), num_keys=1
    )
    return rows[:size], stand_for[:size]


def _nearest(labels, neighbours, start, count, size, uniform):
    """Positives and the best neighbours: int32 `[<= M]` sorted, and how many.

    Behind that number stands _NONE.
    """
    batch, k = neighbours.shape
    rows = jnp.concatenate([labels, neighbours.reshape(-1)]) - start
    rows = jnp.where((rows >= 0) & (rows < count), rows, _NONE)
    order = jnp.arange(len(rows))
    weight = jnp.where(order < batch, 0, _WEIGHT // (1 + (order - batch) % k))
    # Equal rows become runs; a positive comes first in its run.
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
    """Draws `number` distinct numbers below `width`: int32 `[size]`.

    One from each of `number` strata, whose width differs by one at most, all
    turned by one random offset: each number is as likely as any other. What
    stands behind `number` means nothing.
    """
    stratum_key, offset_key = jax.random.split(key)
    order = jnp.arange(size)
    strata, width = jnp.maximum(number, 1), jnp.maximum(width, 1)
    narrow, wider = width // strata, width % strata
    low = order * narrow + jnp.minimum(order, wider)
    draw = jax.random.randint(stratum_key, (size,), 0, narrow + (order < wider))
    return (low + draw + jax.random.randint(offset_key, (), 0, width)) % width
