"""Softmax with a margin, over rows split across the devices.

Two passes over chunks of a device's rows compute the loss, its gradients and
the update of the rows; neither the rows' gradient `[R, D]` nor the logits
`[B, R]` are ever materialized. With cosines `c_j = z . w_j` of unit vectors,
scale s, margin m and y the sample's own category,

  L = mean_b [ log( e^{s m(c_y)} + sum_{j != y} e^{s c_j} ) - s m(c_y) ].

The first pass keeps a running maximum and sum of the negatives (arXiv
1805.02867) and, relative to the same maximum, the weighted sum of rows that
gives the embeddings' gradient (as in FlashAttention, arXiv 2205.14135). The
rows' gradient needs the normalizer, so the second pass scores the chunks again.

With n sub-centers, a category's cosine is that of the nearest of its n unit
vectors (Deng et al., "Sub-center ArcFace", ECCV 2020), the only one that gets a
gradient. With filtering, negatives whose cosine is above a threshold are left
out, as they may be the same object under another ID (similar to PartialFC's
inter-class filtering, arXiv 2203.15565, which sets their logits to zero).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixer_jax.proxies import interface, margins
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.proxies.chunks import Chunks
from mixer_jax.runtime.mesh import AXIS

ABSENT = -1  # target of a sample whose category is on another device

_LOWEST = -1e30  # a masked logit; finite, so that differences are not NaN


class Loss(NamedTuple):
    """Static settings of the loss.

    Attributes:
      margin: function of the target cosine and the margin's size.
      size: the margin's size for samples without their own.
      scale: s, the factor of the cosines.
      chunk: maximum number of rows per device to score at once.
      subcenters: n, the number of proxies per category.
      filter: maximum cosine of negatives; those above it are left out; a
        value of 1 or more keeps all.
      products: dtype of the factors of matrix products; sums are f32.
      wire: dtype in which devices exchange embeddings and their gradients.
    """

    margin: margins.Margin
    size: float
    scale: float
    chunk: int
    subcenters: int = 1
    filter: float = 1.0
    products: str = "float32"
    wire: str = "float32"


class Batch(NamedTuple):
    """The whole batch on every device; the result of `gather`.

    Attributes:
      z: f32 `[B, D]`, unit embeddings.
      labels: int32 `[B]`.
      margins: f32 `[B]`, the margin size of each sample, or None.
      own: `[B / n, D]`, this device's embeddings, not normalized.
    """

    z: jax.Array
    labels: jax.Array
    margins: jax.Array | None
    own: jax.Array


class Active(NamedTuple):
    """A device's active rows.

    Attributes:
      rows: int32 `[M]`, sorted and unique; None activates all rows.
      count: int32 scalar; active rows from this position on are padding.
      target: int32 `[B]`: for each sample of the whole batch, the position of
        its category among the active rows, or ABSENT.
      weights: f32 `[M]`, the weights of the active rows as negatives; None
        gives each a weight of 1.
    """

    rows: jax.Array | None
    count: jax.Array
    target: jax.Array
    weights: jax.Array | None = None


def gather(loss: Loss, given: interface.HeadInput) -> Batch:
    """Gathers the batch on every device; call this inside `jax.shard_map`.

    Args:
      loss: static settings.
      given: the device's part of the input.
    """
    unit, _ = rows_lib.unit(given.embeddings)
    z, labels, sizes = jax.lax.all_gather(
        (unit.astype(loss.wire), given.labels, given.margins), AXIS, tiled=True
    )
    return Batch(z.astype(jnp.float32), labels, sizes, given.embeddings)


def update(
    loss: Loss,
    optimizer: interface.RowOptimizer,
    given: interface.HeadInput,
    batch: Batch,
    active: Active,
) -> interface.HeadStep:
    """Computes the loss over all devices' rows, and updates the rows.

    Call this inside `jax.shard_map` over the mesh axis. It reduces the
    softmax's maximum, its sums and the embeddings' gradient over the devices,
    each of them once; each device keeps the gradient of its part of the batch.

    Args:
      loss: static settings.
      optimizer: updates the rows, chunk by chunk.
      given: the device's part of the input, with its own PRNG key.
      batch: the result of `gather`.
      active: the rows to score and update.

    Returns:
      The result, with `d_embeddings` for this device's part of the batch and
      this device's updated rows as `proxies`.
    """
    rows, moments = given.proxies, given.moments
    target, count = active.target, active.count
    z = batch.z
    length = len(rows if active.rows is None else active.rows)
    chunks = Chunks(length, loss.chunk, active.rows)

    def score(index, cosines, axis):
        """Returns the negatives' logits and a mask of the samples' own rows.

        Rows are on `axis` of the cosines, samples on the other axis.
        """
        columns, fresh = chunks.positions(index)
        real = jnp.expand_dims(fresh & (columns < count), 1 - axis)
        columns = jnp.expand_dims(columns, 1 - axis)
        own = real & (columns == jnp.expand_dims(target, axis))
        negative = real & ~own
        if loss.filter < 1.0:
            negative &= cosines <= loss.filter
        return jnp.where(negative, loss.scale * cosines, _LOWEST), own

    def weight_rows(index, exponentials, axis):
        """Multiplies exponentials by the weights of the rows on `axis`.

        The weights are not added to the logits as logarithms, because the
        peak must be the maximum of the unweighted logits.
        """
        if active.weights is None:
            return exponentials
        weights = chunks.cut(index, active.weights)
        return exponentials * jnp.expand_dims(weights, 1 - axis)

    def reduce(carry, index):
        peak, total, pull = carry
        centers = _Centers(chunks.read(index, rows), loss)
        logits, _ = score(index, centers.by_sample(z), 1)
        higher = jnp.maximum(peak, jnp.max(logits, 1))
        weights = jnp.exp(logits - higher[:, None])
        weights = weight_rows(index, weights, 1)
        fall = jnp.exp(peak - higher)
        total = total * fall + jnp.sum(weights, 1)
        pull = pull * fall[:, None] + centers.pull_samples(weights)
        return (higher, total, pull), None

    peak, total = jnp.full(target.shape, _LOWEST), jnp.zeros(target.shape)
    start = rows_lib.varying((peak, total, jnp.zeros(z.shape)))
    (peak, total, pull), _ = jax.lax.scan(reduce, start, chunks.indices)

    # Without negatives, `total` counts only masked logits, and the factor
    # below makes it 0.
    highest = jax.lax.pmax(peak, AXIS)
    own, own_cosine = _own(rows, active.rows, target, z, loss)
    sums = {"total": total * jnp.exp(peak - highest), "cosine": own_cosine}
    if batch.margins is not None:
        # Use psum: shard_map treats its results, but not gathered arrays, as
        # replicated.
        sums["size"] = jnp.where(target == ABSENT, 0.0, batch.margins)
    sums = jax.lax.psum(sums, AXIS)
    cosine, size = sums["cosine"], sums.get("size", loss.size)
    margin, slope = jax.jvp(
        lambda c: loss.margin(c, size), (cosine,), (jnp.ones_like(cosine),)
    )
    negatives = highest + jnp.log(sums["total"])
    excess = negatives - loss.scale * margin
    normalizer = jnp.logaddexp(negatives, loss.scale * margin)
    share = loss.scale / target.shape[0]  # scale of the cosines' gradients
    d_cosine = -share * slope * jax.nn.sigmoid(excess)
    value = jnp.mean(jax.nn.softplus(excess))

    def descend(state, index):
        old = chunks.read(index, state)
        centers = _Centers(old[0], loss)
        logits, own = score(index, centers.by_row(z), 0)
        weights = jnp.exp(logits - normalizer[None, :])
        weights = share * weight_rows(index, weights, 0)
        d_cosines = jnp.where(own, d_cosine[None, :], weights)
        new = optimizer.update(
            centers.pull_rows(d_cosines, z),
            old[1],
            old[0],
            given.learning_rate,
            jax.random.fold_in(given.key, index),
        )
        return chunks.write(index, state, new), None

    (rows, moments), _ = jax.lax.scan(descend, (rows, moments), chunks.indices)

    dz = share * jnp.exp(peak - normalizer)[:, None] * pull
    dz += d_cosine[:, None] * own
    dz = rows_lib.d_unit(
        *rows_lib.unit(batch.own), _sum_own_part(dz, loss.wire)
    )
    return interface.HeadStep(
        loss=value,
        d_embeddings=dz.astype(batch.own.dtype),
        proxies=rows,
        moments=moments,
        metrics={
            "loss": value,
            "accuracy": jnp.mean(loss.scale * cosine > highest),
            "target_cosine": jnp.mean(cosine),
            "negative_cosine": jnp.mean(highest) / loss.scale,
        },
    )


class _Centers:
    """The unit centers of a chunk of rows, and their products with the batch.

    Each pass computes its cosines in the layout of the product that follows,
    to avoid transposition: `by_sample`, then `pull_samples`; `by_row`, then
    `pull_rows`. With sub-centers, the second method of a pass uses the nearest
    centers found by the first.
    """

    def __init__(self, part: jax.Array, loss: Loss):
        """Normalizes the rows `[c, n D]`."""
        self._loss = loss
        self._unit, self._norm = rows_lib.unit(
            part.reshape(len(part) * loss.subcenters, -1)
        )

    def by_sample(self, z: jax.Array) -> jax.Array:
        """Returns the cosines `[B, c]` to each row's nearest center."""
        return self._nearest(self._product("bd,cd->bc", z, self._unit), 1)

    def by_row(self, z: jax.Array) -> jax.Array:
        """Returns the cosines `[c, B]` to each row's nearest center."""
        return self._nearest(self._product("cd,bd->cb", self._unit, z), 0)

    def pull_samples(self, weights: jax.Array) -> jax.Array:
        """Returns the sums `[B, D]` of centers with weights `[B, c]`."""
        return self._product("bc,cd->bd", self._spread(weights, 1), self._unit)

    def pull_rows(self, d_cosines: jax.Array, z: jax.Array) -> jax.Array:
        """Pulls a gradient of cosines `[c, B]` back to the rows `[c, n D]`."""
        gradient = self._product("cb,bd->cd", self._spread(d_cosines, 0), z)
        gradient = rows_lib.d_unit(self._unit, self._norm, gradient)
        return gradient.reshape(len(d_cosines), -1)

    def _nearest(self, cosines: jax.Array, axis: int) -> jax.Array:
        """Reduces the centers on an axis to the nearest one per row."""
        n = self._loss.subcenters
        if n == 1:
            return cosines
        shape = cosines.shape
        cosines = cosines.reshape(*shape[:axis], -1, n, *shape[axis + 1 :])
        self._is_nearest = jax.nn.one_hot(
            jnp.argmax(cosines, axis + 1), n, axis=axis + 1
        )
        return jnp.max(cosines, axis + 1)

    def _spread(self, weights: jax.Array, axis: int) -> jax.Array:
        """Assigns each row's weight to its nearest center."""
        if self._loss.subcenters == 1:
            return weights
        spread = jnp.expand_dims(weights, axis + 1) * self._is_nearest
        shape = weights.shape
        return spread.reshape(*shape[:axis], -1, *shape[axis + 1 :])

    def _product(self, formula, left, right):
        return rows_lib.product(formula, left, right, self._loss.products)


def _own(
    rows: jax.Array,
    active: jax.Array | None,
    target: jax.Array,
    z: jax.Array,
    loss: Loss,
) -> tuple[jax.Array, jax.Array]:
    """Returns each sample's own center `[B, D]` and cosine, 0 where absent."""
    place = jnp.maximum(target, 0)
    own = rows[place if active is None else active[place]]
    own, _ = rows_lib.unit(own.reshape(len(target), loss.subcenters, -1))
    cosines = jnp.einsum("bnd,bd->bn", own, z)
    nearest = jnp.argmax(cosines, -1)[:, None]
    own = jnp.take_along_axis(own, nearest[..., None], 1)[:, 0]
    present = target != ABSENT
    return (
        jnp.where(present[:, None], own, 0.0),
        jnp.where(present, jnp.max(cosines, -1), 0.0),
    )


def _sum_own_part(dz: jax.Array, wire: str) -> jax.Array:
    """Sums `[B, D]` over devices in f32; each keeps its part `[B / n, D]`."""
    if wire == "float32":
        return jax.lax.psum_scatter(dz, AXIS, tiled=True)
    # Reducing narrow values directly would also sum them in low precision.
    parts = dz.reshape(jax.lax.axis_size(AXIS), -1, dz.shape[-1])
    parts = jax.lax.all_to_all(parts.astype(wire), AXIS, 0, 0)
    return jnp.sum(parts.astype(jnp.float32), 0)
