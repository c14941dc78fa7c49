"""The hardest negatives of a batch among all current proxies."""

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

    Call it inside `jax.shard_map` over the mesh axis. Each device scores its
    own rows; then each merges the candidates of its part of the batch and
    sends back how near one must be. So B k numbers leave a device, not n B k.

    Args:
      proxies: `[R, n D]`, this device's rows.
      batch: the whole batch; the samples' own categories are no negatives.
      num_categories: C.
      k: nearest negatives of a sample, over all devices.
      loss: settings; `chunk`, `subcentres` and `products` count here.
      approximate: see `nearest.extend`.

    Returns:
      int32 `[B, min(k, R)]`, this device's categories by falling cosine;
      -1 where a sample's k nearest are elsewhere.
    """
    start, count = rows_lib.own(num_categories, len(proxies))
    found = nearest.none(len(batch.z), min(k, len(proxies)))
    cosines, ids = nearest.extend(
        jax.lax.pcast(found, AXIS, to="varying"),
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
    least = jax.lax.top_k(parts, min(k, parts.shape[1]))[0][:, -1]
    least = jax.lax.all_gather(least, AXIS, tiled=True)
    # Rows that were never met are -1 and -inf.
    return jnp.where(cosines >= least[:, None], ids, -1)
