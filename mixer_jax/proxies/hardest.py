"""Search for the hardest negatives of a batch among all current proxies."""

import jax
import jax.numpy as jnp

from mixer_jax.proxies import nearest, softmax
from mixer_jax.proxies import rows as rows_lib
from mixer_jax.runtime.mesh import AXIS


def negatives(
    proxies: jax.Array,
    batch: softmax.Batch,
    num_categories: int,
    k: int,
    loss: softmax.Loss,
    approximate: bool,
) -> jax.Array:
    """Finds which of this device's rows are among each sample's k nearest.

    Call this inside `jax.shard_map` over the mesh axis. Each device scores its
    own rows, then merges all candidates' cosines for its part of the batch and
    sends back the threshold of each sample. A device thus sends `B k` numbers
    instead of `n B k`.

    Args:
      proxies: `[R, n D]`, this device's rows.
      batch: the whole batch; samples' own categories are excluded.
      num_categories: C.
      k: the number of nearest negatives per sample, over all devices.
      loss: static settings; only `chunk` and `products` are used.
      approximate: see `nearest.extend`.

    Returns:
      int32 `[B, min(k, R)]`, this device's categories by decreasing cosine;
      -1 for candidates that are not among a sample's k nearest.
    """
    start, count = rows_lib.own(num_categories, len(proxies))
    empty = nearest.none(len(batch.z), min(k, len(proxies)))
    cosines, ids = nearest.extend(
        rows_lib.varying(empty),
        batch.z[:, None, :],
        batch.labels,
        proxies,
        start,
        count,
        loss.chunk,
        loss.products,
        approximate,
    )
    parts = cosines.reshape(jax.lax.axis_size(AXIS), -1, cosines.shape[1])
    parts = jax.lax.all_to_all(parts, AXIS, 0, 0).swapaxes(0, 1)
    parts = parts.reshape(parts.shape[0], -1)
    threshold = jax.lax.top_k(parts, min(k, parts.shape[1]))[0][:, -1]
    threshold = jax.lax.all_gather(threshold, AXIS, tiled=True)
    # Unfilled entries already have id -1 and cosine -inf.
    return jnp.where(cosines >= threshold[:, None], ids, -1)
