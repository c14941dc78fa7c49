"""ResNet v1.5 (He et al., arXiv 1512.03385): the 3x3 layers downsample."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.encoders import layers
from mixer_jax.models.encoders.family import Family, check_fixed, unsupported
from mixer_jax.models.encoders.key_map import KeyMap


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a ResNet; tuples have one entry per stage."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    stem: int = 64  # channels of the first convolution
    bottleneck: bool = True  # blocks of 1x1, 3x3, 1x1, not 3x3, 3x3
    mean: tuple[float, ...] = layers.IMAGENET_MEAN
    std: tuple[float, ...] = layers.IMAGENET_STD


_BASIC = ResNetConfig(widths=(64, 128, 256, 512), bottleneck=False)
CONFIGS = {
    "resnet18": dataclasses.replace(_BASIC, blocks=(2, 2, 2, 2)),
    "resnet34": _BASIC,
    "resnet50": ResNetConfig(),
    "resnet101": ResNetConfig(blocks=(3, 4, 23, 3)),
}

_BLOCK, _BLOCK_THEIRS = (
    r"stage(\d+)_block(\d+)/",
    r"encoder.stages.\1.layers.\2.",
)
KEYS = KeyMap(
    pairs=(
        ("stem/kernel", "embedder.embedder.convolution.weight"),
        ("stem", "embedder.embedder.normalization"),
        (
            _BLOCK + "shortcut/kernel",
            _BLOCK_THEIRS + "shortcut.convolution.weight",
        ),
        (_BLOCK + "shortcut", _BLOCK_THEIRS + "shortcut.normalization"),
        (
            _BLOCK + r"conv(\d)/kernel",
            _BLOCK_THEIRS + r"layer.\3.convolution.weight",
        ),
        (_BLOCK + r"conv(\d)", _BLOCK_THEIRS + r"layer.\3.normalization"),
    ),
    ignored=r".*\.num_batches_tracked|classifier\..*",
    prefix="resnet.",
)

# Keys of config.json that support only one value.
_FIXED = {
    "model_type": "resnet",
    "num_channels": 3,
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
_LAYER_TYPES = {"basic": False, "bottleneck": True}


def from_original(config: Mapping[str, Any]) -> ResNetConfig:
    """Reads the original's config.json.

    Raises:
      UserError: if a value is not supported.
    """
    check_fixed("ResNet", config, _FIXED)
    layer_type = config.get("layer_type", "bottleneck")
    if layer_type not in _LAYER_TYPES:
        known = ", ".join(_LAYER_TYPES)
        raise unsupported("ResNet", "layer_type", layer_type, known)
    default = ResNetConfig()
    return ResNetConfig(
        blocks=tuple(config.get("depths", default.blocks)),
        widths=tuple(config.get("hidden_sizes", default.widths)),
        stem=config.get("embedding_size", default.stem),
        bottleneck=_LAYER_TYPES[layer_type],
    )


def to_original(config: ResNetConfig) -> dict[str, Any]:
    """Returns a config.json that transformers loads."""
    return {
        "architectures": ["ResNetModel"],
        **_FIXED,
        "depths": list(config.blocks),
        "hidden_sizes": list(config.widths),
        "embedding_size": config.stem,
        "layer_type": "bottleneck" if config.bottleneck else "basic",
    }


def _layer(features, size, stride, *, dtype, name, **options):
    return layers.ConvNorm(
        features,
        size,
        stride,
        padding=size // 2,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
        **options,
    )


class _Block(nn.Module):
    width: int
    stride: int
    bottleneck: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxHxWxC, batch_stats):
        layer = functools.partial(_layer, dtype=self.dtype)
        # With a zero scale in its last norm, a block starts as the identity.
        last = {"scale_init": nn.initializers.zeros}
        width = self.width
        if self.bottleneck:
            plan = (
                (width // 4, 1, 1, {"activation": nn.relu}),
                (width // 4, 3, self.stride, {"activation": nn.relu}),
                (width, 1, 1, last),
            )
        else:
            plan = (
                (width, 3, self.stride, {"activation": nn.relu}),
                (width, 3, 1, last),
            )
        x = x_BxHxWxC
        for index, (features, size, stride, options) in enumerate(plan):
            x = layer(features, size, stride, name=f"conv{index}", **options)(
                x, batch_stats
            )
        if self.stride > 1 or x_BxHxWxC.shape[-1] != width:
            x_BxHxWxC = layer(width, 1, self.stride, name="shortcut")(
                x_BxHxWxC, batch_stats
            )
        return nn.relu(x + x_BxHxWxC)


class ResNet(nn.Module):
    """ResNet; patches are the cells of the last feature map.

    Attributes:
      config: the model's sizes.
      batch_norm: "train" uses and updates batch statistics while training;
        "frozen" always uses the running statistics.
      dtype: dtype of the computation; parameters are float32.
      remat: whether the backward pass recomputes each block to save memory.
    """

    config: ResNetConfig
    batch_norm: str = "train"
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images_BxHxWx3: jax.Array, train: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images_BxHxWx3: uint8 or float pixels in 0..255; with four stages,
            each patch covers 32 x 32 pixels.
          train: whether this is a training step.

        Returns:
          Patches [B, P, C].
        """
        config = self.config
        batch_stats = train and self.batch_norm == "train"
        x = layers.normalize_pixels(images_BxHxWx3, config)
        x = _layer(
            config.stem, 7, 2, dtype=self.dtype, name="stem", activation=nn.relu
        )(x, batch_stats)
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        for stage, blocks in enumerate(config.blocks):
            for index in range(blocks):
                x = block(
                    config.widths[stage],
                    2 if stage and not index else 1,
                    config.bottleneck,
                    self.dtype,
                    name=f"stage{stage}_block{index}",
                )(x, batch_stats)
        return x.reshape(x.shape[0], -1, x.shape[-1])


FAMILY = Family(ResNet, ResNetConfig, KEYS, from_original, to_original)
