"""EfficientNet-Lite (Tan & Le, arXiv 1905.11946, "Lite" variants).

The Lite variants have no squeeze-and-excitation, use ReLU6, and do not scale
the widths of the stem and the head. The published ImageNet weights that
`pretrained.py` reads are those of Lite0.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.encoders.hypercolumns import hypercolumns
from mixer_jax.models.encoders.key_map import KeyMap
from mixer_jax.models.encoders.layers import ConvNorm, normalize_pixels
from mixer_jax.models.kernels.activations import relu6

# Repeats, kernel size, stride of the first block, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """Sizes of an EfficientNet-Lite."""

    width: float = 1.0  # channel multiplier, except in the stem and the head
    depth: float = 1.0  # repeat multiplier, except in the first and last stages
    size: int = 224  # side of the training images in pixels
    mean: tuple[float, ...] = (127.0, 127.0, 127.0)  # of pixels in 0..255
    std: tuple[float, ...] = (128.0, 128.0, 128.0)

    def stages(self) -> list[tuple[int, int, int, int, int]]:
        """Returns the scaled rows of `_STAGES`."""
        return [
            (
                repeats
                if index in (0, len(_STAGES) - 1)
                else math.ceil(repeats * self.depth),
                *sizes,
                _scaled(channels, self.width),
            )
            for index, (repeats, *sizes, channels) in enumerate(_STAGES)
        ]


def _scaled(channels: int, width: float) -> int:
    """Scales, then rounds to a multiple of 8 without losing more than 10%."""
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8


CONFIGS = {
    "efficientnet-lite0": EfficientNetConfig(),
    "efficientnet-lite1": EfficientNetConfig(1.0, 1.1, 240),
    "efficientnet-lite2": EfficientNetConfig(1.1, 1.2, 260),
    "efficientnet-lite3": EfficientNetConfig(1.2, 1.4, 280),
    "efficientnet-lite4": EfficientNetConfig(1.4, 1.8, 300),
}

# Tensor names in the published PyTorch files. The first block has no expansion,
# but its norms are numbered like those of the other blocks.
KEYS = KeyMap(
    pairs=(
        (r"stem/kernel", r"_conv_stem.weight"),
        (r"stem", r"_bn0"),
        (r"block(\d+)/(\w+)/kernel", r"_blocks.\1._\2_conv.weight"),
        (r"block(\d+)/expand", r"_blocks.\1._bn0"),
        (r"block(\d+)/depthwise", r"_blocks.\1._bn1"),
        (r"block(\d+)/project", r"_blocks.\1._bn2"),
        (r"head/kernel", r"_conv_head.weight"),
        (r"head", r"_bn1"),
        (r"classifier", r"_fc"),
    ),
    # With hypercolumns, the model has no head.
    ignored=r".*\.num_batches_tracked|(_fc|_conv_head|_bn1)\..*",
)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depthwise convolution and a 1x1 projection."""

    size: int
    stride: int
    expansion: int
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, batch_stats: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, F]."""
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


class EfficientNet(nn.Module):
    """EfficientNet-Lite; patches are the cells of the last feature map.

    Attributes:
      config: the model's sizes.
      batch_norm: "train" uses and updates batch statistics while training;
        "frozen" always uses the running statistics.
      classes: number of logits of an added classifier; 0 for no classifier.
      dtype: dtype of the computation; parameters are float32.
      remat: whether the backward pass recomputes each block to save memory.
      hypercolumns: whether patches hold the outputs of all blocks instead of
        those of the head; see `hypercolumns.py`.
    """

    config: EfficientNetConfig
    batch_norm: str = "train"
    classes: int = 0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    hypercolumns: bool = False

    @nn.compact
    def __call__(
        self, images_BxHxWx3: jax.Array, train: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images_BxHxWx3: uint8 or float pixels in 0..255; each patch covers
            32 x 32 pixels.
          train: whether this is a training step.

        Returns:
          Patches [B, P, 1280], or logits [B, classes] with a classifier; with
          hypercolumns, [B, P, total channels of all blocks].
        """
        batch_stats = train and self.batch_norm == "train"
        x = normalize_pixels(images_BxHxWx3, self.config)
        x = ConvNorm(32, 3, 2, activation=relu6, dtype=self.dtype, name="stem")(
            x, batch_stats
        )
        # Argument 2 is `batch_stats`; argument 0 is the block itself.
        block = InvertedResidual
        if self.remat:
            block = nn.remat(block, static_argnums=2)
        outputs = []
        for repeats, size, stride, expansion, features in self.config.stages():
            for repeat in range(repeats):
                x = block(
                    size,
                    1 if repeat else stride,
                    expansion,
                    features,
                    dtype=self.dtype,
                    name=f"block{len(outputs)}",
                )(x, batch_stats)
                outputs.append(x)
        if self.hypercolumns:
            return hypercolumns(outputs)
        x = ConvNorm(1280, activation=relu6, dtype=self.dtype, name="head")(
            x, batch_stats
        )
        patches = x.reshape(x.shape[0], -1, x.shape[-1])
        if not self.classes:
            return patches
        return nn.Dense(self.classes, name="classifier")(patches.mean(1))


EfficientNetLite0 = partial(EfficientNet, CONFIGS["efficientnet-lite0"])
