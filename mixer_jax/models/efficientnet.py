"""EfficientNet-Lite0 (Tan & Le, arXiv 1905.11946, "Lite" variant).

No squeeze-and-excitation, ReLU6, and a stem and head of fixed width. Layer
sizes are those of the published ImageNet weights, which `pretrained.py`
reads.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.layers import ConvNorm, relu6

# Repeats, kernel size, stride of the first, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class InvertedResidual(nn.Module):
    """Expand with 1x1, filter each channel, project with 1x1."""

    size: int
    stride: int
    expansion: int
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, batch_stats: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H / stride, W / stride, F]."""
        wide = x_BxHxWxC.shape[-1] * self.expansion
        x = x_BxHxWxC
        if self.expansion > 1:
            x = ConvNorm(
                wide, activation=relu6, dtype=self.dtype, name="expand"
            )(x, batch_stats)
        x = ConvNorm(
            wide,
            self.size,
            self.stride,
            depthwise=True,
            activation=relu6,
            dtype=self.dtype,
            name="depthwise",
        )(x, batch_stats)
        x = ConvNorm(self.features, dtype=self.dtype, name="project")(
            x, batch_stats
        )
        return x + x_BxHxWxC if x.shape == x_BxHxWxC.shape else x


class EfficientNetLite0(nn.Module):
    """Images to patches, the cells of the map after the 1280-wide head.

    Attributes:
      batch_norm: "train" uses and updates batch statistics while training;
        "frozen" always uses the running ones.
      classes: adds a classifier of this many logits; 0 for none.
      dtype: of the computation; parameters are float32.
    """

    batch_norm: str = "train"
    classes: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images_BxHxWx3: jax.Array, train: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images_BxHxWx3: uint8 or float pixels in 0..255; 32 pixels of side
            make one patch.
          train: whether a training step runs.

        Returns:
          Patches [B, P, 1280], or logits [B, classes] with a classifier.
        """
        batch_stats = train and self.batch_norm == "train"
        x = (images_BxHxWx3.astype(self.dtype) - 127) / 128
        x = ConvNorm(32, 3, 2, activation=relu6, dtype=self.dtype, name="stem")(
            x, batch_stats
        )
        index = 0
        for repeats, size, stride, expansion, features in _STAGES:
            for repeat in range(repeats):
                x = InvertedResidual(
                    size,
                    1 if repeat else stride,
                    expansion,
                    features,
                    dtype=self.dtype,
                    name=f"block{index}",
                )(x, batch_stats)
                index += 1
        x = ConvNorm(1280, activation=relu6, dtype=self.dtype, name="head")(
            x, batch_stats
        )
        patches = x.reshape(x.shape[0], -1, x.shape[-1])
        if not self.classes:
            return patches
        return nn.Dense(self.classes, name="classifier")(patches.mean(1))
