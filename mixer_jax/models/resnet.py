"""ResNet v1.5 (He et al., arXiv 1512.03385; the stride sits in the 3x3)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.layers import ConvNorm

# Blocks of each of the four stages, and whether they are bottlenecks.
_DEPTHS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}

# ImageNet's channel means and deviations, on pixels in 0..255.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


class _Block(nn.Module):
    features: int
    stride: int
    bottleneck: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxHxWxC, batch_stats):
        def layer(features, size, stride, name, **options):
            return ConvNorm(
                features,
                size,
                stride,
                padding=size // 2,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.dtype,
                name=name,
                **options,
            )

        # A block starts as the identity: the last scale is zero.
        last = {"scale_init": nn.initializers.zeros}
        width = self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            plan = (
                (self.features, 1, 1, {"activation": nn.relu}),
                (self.features, 3, self.stride, {"activation": nn.relu}),
                (width, 1, 1, last),
            )
        else:
            plan = (
                (width, 3, self.stride, {"activation": nn.relu}),
                (width, 3, 1, last),
            )
        x = x_BxHxWxC
        for index, (features, size, stride, options) in enumerate(plan):
            name = f"conv{index}"
            x = layer(features, size, stride, name, **options)(x, batch_stats)
        if x.shape != x_BxHxWxC.shape:
            x_BxHxWxC = layer(width, 1, self.stride, "shortcut")(
                x_BxHxWxC, batch_stats
            )
        return nn.relu(x + x_BxHxWxC)


class ResNet(nn.Module):
    """Images to patches, the cells of the last feature map.

    Attributes:
      depth: 18 (basic blocks, 512 channels) or 50 (bottlenecks, 2048).
      batch_norm: "train" uses and updates batch statistics while training;
        "frozen" always uses the running ones.
      dtype: of the computation; parameters are float32.
    """

    depth: int = 50
    batch_norm: str = "train"
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
          Patches [B, P, C].
        """
        batch_stats = train and self.batch_norm == "train"
        mean, std = (jnp.array(v)[None, None, None] for v in (_MEAN, _STD))
        x = (images_BxHxWx3.astype(jnp.float32) - mean) / std
        x = ConvNorm(
            64,
            7,
            2,
            padding=3,
            activation=nn.relu,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            name="stem",
        )(x, batch_stats)
        pad = ((1, 1), (1, 1))
        x = nn.max_pool(x, (3, 3), (2, 2), pad)
        blocks, bottleneck = _DEPTHS[self.depth]
        for stage, repeats in enumerate(blocks):
            for repeat in range(repeats):
                x = _Block(
                    64 * 2**stage,
                    2 if stage and not repeat else 1,
                    bottleneck,
                    self.dtype,
                    name=f"stage{stage}_block{repeat}",
                )(x, batch_stats)
        return x.reshape(x.shape[0], -1, x.shape[-1])
