"""Patch and position embeddings of images, shared by ViT, CLIP and SigLIP.

Dosovitskiy et al., arXiv 2010.11929.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mixer_jax.models.encoders.layers import normalize_pixels
from mixer_jax.models.encoders.transformer import ImageConfig
from mixer_jax.runtime.errors import UserError


class PatchEmbedding(nn.Module):
    """Convolution with stride equal to kernel size, as a matrix product.

    Attributes:
      config: the model's sizes.
      use_bias: whether to add a bias.
      dtype: dtype of the computation.
    """

    config: ImageConfig
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images_BxHxWx3: jax.Array) -> jax.Array:
        """Maps pixels [B, H, W, 3] in 0..255 to [B, rows, columns, C].

        Pixels to the right of and below the last whole patch are ignored.

        Raises:
          UserError: if the images are smaller than a patch.
        """
        config, size = self.config, self.config.patch
        batch, height, width, channels = images_BxHxWx3.shape
        rows, cols = height // size, width // size
        if not rows * cols:
            raise UserError(
                f"Images of {height} x {width} pixels are smaller than one "
                f"patch of {size} x {size}."
            )
        x = images_BxHxWx3[:, : rows * size, : cols * size]
        x = normalize_pixels(x, config).astype(self.dtype)
        x = x.reshape(batch, rows, size, cols, size, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, cols, -1)
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (size, size, channels, config.width),
            jnp.float32,
        )
        x = jnp.dot(x, kernel.reshape(-1, config.width).astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (config.width,))
            x += bias.astype(self.dtype)[None, None, None]
        return x


def add_positions(
    x_BxRxSxC: jax.Array,
    positions_PxC: jax.Array,
    cls_1xC: jax.Array | None = None,
) -> jax.Array:
    """Adds position embeddings to patches and prepends CLS.

    Args:
      x_BxRxSxC: rows and columns of patches.
      positions_PxC: float32 position embeddings: that of CLS, if CLS is used,
        then those of a square of patches, which are interpolated if R x S
        differs from the square.
      cls_1xC: float32, the CLS token without its position.

    Returns:
      [B, R * S, C], or [B, 1 + R * S, C] with CLS.
    """
    batch, rows, cols, width = x_BxRxSxC.shape
    first = 0 if cls_1xC is None else 1
    positions = positions_PxC[first:]
    side = math.isqrt(len(positions))
    if (rows, cols) != (side, side):
        positions = jnp.einsum(
            "rp,sq,pqc->rsc",
            bicubic(side, rows),
            bicubic(side, cols),
            positions.reshape(side, side, width),
        ).reshape(-1, width)
    x = x_BxRxSxC.reshape(batch, -1, width)
    x += positions.astype(x.dtype)[None]
    if cls_1xC is None:
        return x
    cls = (cls_1xC + positions_PxC[:1]).astype(x.dtype)
    cls = jnp.broadcast_to(cls[None], (batch, 1, width))
    return jnp.concatenate([cls, x], 1)


def bicubic(size: int, new: int) -> np.ndarray:
    """Returns the float32 matrix [new, size] that resizes one axis.

    The matrix matches the bicubic interpolation of torch (Keys kernel with
    a = -0.75, half-pixel centers, repeated edges, no antialiasing);
    `jax.image.resize` uses a = -0.5.
    """
    center = (np.arange(new) + 0.5) * size / new - 0.5
    left = np.floor(center).astype(int)
    matrix = np.zeros((new, size))
    for tap in range(-1, 3):
        t = np.abs(center - left - tap)
        near = 1.25 * t**3 - 2.25 * t**2 + 1
        far = -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
        column = np.clip(left + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new), column), np.where(t <= 1, near, far))
    return matrix.astype(np.float32)
