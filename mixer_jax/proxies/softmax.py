"""The softmax with a margin over rows that are split over the devices.

Two passes over chunks of a device's rows make the loss, its gradients and the
update of the rows; neither the logits `[B, R]` nor the rows' gradient `[R, D]`
ever exist. With cosines `c_j = z . w_j` of unit vectors, scale s, margin m and
y the sample's own category,

  L = mean_b [ log( e^{s m(c_y)} + sum_{j != y} e^{s c_j} ) - s m(c_y) ].

The first pass keeps a running maximum and sum of the negatives (arXiv
1805.02867); the second needs the normalizer, so it scores the chunks again.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mixer_jax.mesh import AXIS
from mixer_jax.proxies import interface, margins
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.chunks import Chunks

ABSENT = -1  # the target of a sample whose category another device has
SPECS = interface.HeadStep(
    loss=jax.P(),
    d_embeddings=jax.P(AXIS),
    proxies=jax.P(AXIS),
    moments=jax.P(AXIS),
    metrics=jax.P(),
)  # how `update`'s result leaves `jax.shard_map`

_LOWEST = -1e30  # a masked logit; finite, so that differences stay numbers


class Loss(NamedTuple):
    """Static settings of the loss.

    Attributes:
      margin: function of the target cosine.
      scale: s, what cosines are multiplied with.
      chunk: the most rows that are scored at once, on a device.
    """

    margin: margins.Margin
    scale: float
    chunk: int


def update(
    loss: Loss,
    optimizer: interface.RowOptimizer,
    rows: jax.Array,
    moments: interface.Moments,
    count: jax.Array,
    embeddings: jax.Array,
    target: jax.Array,
    learning_rate: jax.Array,
) -> interface.HeadStep:
    """Computes the loss over all devices' rows, and updates the rows.

    Call it inside `jax.shard_map` over the mesh axis. Embeddings are gathered
    once, the softmax's maximum and sums are reduced once each, and the
    embeddings' gradient is reduced to its own part of the batch once.

    Args:
      loss: static settings.
      optimizer: updates the rows, chunk by chunk.
      rows: f32 `[R, D]`, this device's rows.
      moments: the optimizer's rows, leaves `[R, ...]`.
      count: int32 scalar; rows from there on are padding.
      embeddings: `[B / n, D]`, this device's part of the batch.
      target: int32 `[B]`: for each sample of the whole batch the position of
        its category in `rows`, or ABSENT.
      learning_rate: f32 scalar.

    Returns:
      The step, with `d_embeddings` of this device's part of the batch, and
      `rows` in the place of the proxies.
    """
    unit, norm = rows_lib.unit(embeddings)
    z = jax.lax.all_gather(unit, AXIS, tiled=True)
    chunks = Chunks(rows.shape[0], loss.chunk)

    def score(index, part):
        """Scores one chunk: unit rows, norms, negatives' logits, targets."""
        w, w_norm = rows_lib.unit(part)
        logits = loss.scale * (z @ w.T)
        columns, fresh = chunks.positions(index)
        is_target = fresh[None, :] & (columns[None, :] == target[:, None])
        negative = (fresh & (columns < count))[None, :] & ~is_target
        return w, w_norm, jnp.where(negative, logits, _LOWEST), is_target

    def reduce(carry, index):
        peak, total = carry
        *_, logits, _ = score(index, chunks.read(index, rows))
        higher = jnp.maximum(peak, jnp.max(logits, 1))
        total *= jnp.exp(peak - higher)
        total += jnp.sum(jnp.exp(logits - higher[:, None]), 1)
        return (higher, total), None

    peak_and_total = _varying(
        (jnp.full(target.shape, _LOWEST), jnp.zeros(target.shape))
    )
    (peak, total), _ = jax.lax.scan(reduce, peak_and_total, chunks.indices)

    # A device without a negative counted masked logits; they vanish here.
    highest = jax.lax.pmax(peak, AXIS)
    own, _ = rows_lib.unit(rows[jnp.maximum(target, 0)])
    own = jnp.where(target == ABSENT, 0.0, jnp.sum(z * own, -1))
    total, cosine = jax.lax.psum((total * jnp.exp(peak - highest), own), AXIS)
    margin, slope = jax.jvp(loss.margin, (cosine,), (jnp.ones_like(cosine),))
    negatives = highest + jnp.log(total)
    excess = negatives - loss.scale * margin
    normalizer = jnp.logaddexp(negatives, loss.scale * margin)
    share = loss.scale / target.shape[0]  # of a cosine in the mean loss
    d_cosine = -share * slope * jax.nn.sigmoid(excess)
    value = jnp.mean(jax.nn.softplus(excess))

    def descend(carry, index):
        state, dz = carry
        old = chunks.read(index, state)
        w, w_norm, logits, is_target = score(index, old[0])
        d_cosines = jnp.where(
            is_target,
            d_cosine[:, None],
            share * jnp.exp(logits - normalizer[:, None]),
        )
        gradient = rows_lib.d_unit(w, w_norm, d_cosines.T @ z)
        new = optimizer.update(gradient, old[1], old[0], learning_rate)
        return (chunks.write(index, state, new), dz + d_cosines @ w), None

    carry = (rows, moments), _varying(jnp.zeros(z.shape))
    ((rows, moments), dz), _ = jax.lax.scan(descend, carry, chunks.indices)

    dz = jax.lax.psum_scatter(dz, AXIS, tiled=True)
    return interface.HeadStep(
        loss=value,
        d_embeddings=rows_lib.d_unit(unit, norm, dz).astype(embeddings.dtype),
        proxies=rows,
        moments=moments,
        metrics={
            "loss": value,
            "accuracy": jnp.mean(loss.scale * cosine > highest),
            "target_cosine": jnp.mean(cosine),
            "negative_cosine": jnp.mean(highest) / loss.scale,
        },
    )


def _varying(tree: Any) -> Any:
    """Marks constants as what differs between devices, as loops carry it."""
    return jax.lax.pcast(tree, AXIS, to="varying")
