"""SigLIP's towers (Zhai et al., arXiv 2303.15343), without their heads.

SigLIP was trained without a mask, so its tokens attend to padding. Here, as in
all text encoders of this package, padding is masked. The vectors of padded
texts therefore differ from those of the original when it is run without a mask.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.encoders import layers, patches, transformer
from mixer_jax.models.encoders.family import Family
from mixer_jax.models.encoders.key_map import KeyMap


@dataclasses.dataclass(frozen=True)
class SiglipVisionConfig(transformer.ImageConfig):
    """Sizes of the image tower of a SigLIP model."""

    activation: str = "gelu_pytorch_tanh"


@dataclasses.dataclass(frozen=True)
class SiglipTextConfig(transformer.TextConfig):
    """Sizes of the text tower of a SigLIP model."""

    activation: str = "gelu_pytorch_tanh"


_LARGE = {"width": 1024, "layers": 24, "heads": 16, "hidden": 4096}
_SO400M = {"width": 1152, "layers": 27, "heads": 16, "hidden": 4304}
VISION_CONFIGS = {
    "siglip-b16": SiglipVisionConfig(),
    "siglip-l16": SiglipVisionConfig(**_LARGE, image_size=256),
    "siglip-so400m": SiglipVisionConfig(**_SO400M, patch=14, image_size=384),
}
TEXT_CONFIGS = {
    "siglip-b16": SiglipTextConfig(),
    "siglip-l16": SiglipTextConfig(**_LARGE),
    "siglip-so400m": SiglipTextConfig(**_SO400M),
}

# Files may contain one tower or both.
_IGNORED = r"(.*\.)?position_ids|logit_(scale|bias)|(head|classifier)\..*"
VISION_KEYS = KeyMap(
    pairs=(
        *transformer.LAYER_PAIRS,
        (r"patch_embedding", r"embeddings.patch_embedding"),
        (r"norm", r"post_layernorm"),
    ),
    ignored=rf"{_IGNORED}|text_model\..*",
    prefix="vision_model.",
)
TEXT_KEYS = KeyMap(
    pairs=transformer.TEXT_PAIRS,
    ignored=rf"{_IGNORED}|vision_model\..*",
    prefix="text_model.",
)


def vision_from_original(config: Mapping[str, Any]) -> SiglipVisionConfig:
    """Reads the config.json of a SigLIP model or of its image tower.

    Raises:
      UserError: if a value is not supported.
    """
    return transformer.from_original(
        SiglipVisionConfig, config.get("vision_config", config), num_channels=3
    )


def text_from_original(config: Mapping[str, Any]) -> SiglipTextConfig:
    """Reads the config.json of a SigLIP model or of its text tower.

    Raises:
      UserError: if a value is not supported.
    """
    return transformer.from_original(
        SiglipTextConfig, config.get("text_config", config)
    )


def vision_to_original(config: SiglipVisionConfig) -> dict[str, Any]:
    """Returns the config.json for transformers' SiglipVisionModel."""
    return transformer.to_original(
        config,
        "siglip_vision_model",
        "SiglipVisionModel",
        vision_use_head=False,
    )


def text_to_original(config: SiglipTextConfig) -> dict[str, Any]:
    """Returns the config.json for transformers' SiglipTextModel."""
    return transformer.to_original(
        config, "siglip_text_model", "SiglipTextModel"
    )


class SiglipVision(nn.Module):
    """SigLIP's image tower, which returns patches without a CLS token.

    Attributes:
      config: the model's sizes.
      dtype: dtype of the computation; parameters, softmax and the norms'
        statistics are float32.
      remat: whether the backward pass recomputes each layer to save memory.
    """

    config: SiglipVisionConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images_BxHxWx3: jax.Array, train: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images_BxHxWx3: uint8 or float pixels in 0..255, of any size.
          train: has no effect; there is no dropout.

        Returns:
          [B, P, width]; each patch covers a square of `config.patch` pixels
          per side.
        """
        config = self.config
        x = patches.PatchEmbedding(
            config, dtype=self.dtype, name="patch_embedding"
        )(images_BxHxWx3)
        positions = self.param(
            "position_embedding",
            layers.INIT,
            (config.patches, config.width),
        )
        x = patches.add_positions(x, positions)
        x = transformer.layers(config, x, dtype=self.dtype, remat=self.remat)
        return transformer.norm(config, self.dtype, "norm")(x)


class SiglipText(transformer.TextTransformer):
    """SigLIP's text tower, in which tokens attend to all tokens."""


VISION_FAMILY = Family(
    SiglipVision,
    SiglipVisionConfig,
    VISION_KEYS,
    vision_from_original,
    vision_to_original,
)
TEXT_FAMILY = Family(
    SiglipText,
    SiglipTextConfig,
    TEXT_KEYS,
    text_from_original,
    text_to_original,
)
