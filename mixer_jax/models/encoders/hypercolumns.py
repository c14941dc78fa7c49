"""Hypercolumns: the outputs of several blocks at every cell of the last one.

Early blocks of a convolutional network describe colors and shapes that the last
one, trained to recognize kinds of things, no longer tells apart. To find the
same thing again, both are needed. See Hariharan et al., "Hypercolumns for
Object Segmentation and Fine-grained Localization" (arXiv 1411.5752).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn


def hypercolumns(maps: Sequence[jax.Array]) -> jax.Array:
    """Concatenates feature maps, averaged over the cells of the last one.

    Each map is divided by the norm of its mean over the cells, so that all
    blocks contribute equally to the mean of an image.

    Args:
      maps: feature maps [B, Hi, Wi, Ci] of one dtype. With the last map's
        height H, windows of ceil(Hi / H) rows must give H rows; likewise Wi.

    Returns:
      [B, P, sum of Ci] in that dtype, where P is the number of cells of the
      last map.
    """
    columns = [_cells(x_BxHxWxC, maps[-1].shape) for x_BxHxWxC in maps]
    return jnp.concatenate(columns, -1)


def _cells(x_BxHxWxC: jax.Array, last: tuple[int, ...]) -> jax.Array:
    """Returns a map's scaled means [B, P, C] over the cells of the last map."""
    window = tuple(-(-x_BxHxWxC.shape[axis] // last[axis]) for axis in (1, 2))
    if window != (1, 1):
        x_BxHxWxC = nn.avg_pool(
            x_BxHxWxC, window, window, "SAME", count_include_pad=False
        )
    batch, height, width, channels = x_BxHxWxC.shape
    x_BxPxC = x_BxHxWxC.reshape(batch, height * width, channels)
    mean_BxC = x_BxPxC.astype(jnp.float32).mean(1)
    square_B = jnp.square(mean_BxC).sum(-1)
    scale_B = jax.lax.rsqrt(jnp.maximum(square_B, 1e-12))
    return x_BxPxC * scale_B[:, None, None].astype(x_BxPxC.dtype)
