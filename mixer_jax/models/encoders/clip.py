"""CLIP's towers (Radford et al., arXiv 2103.00020), without projections."""

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
class ClipVisionConfig(transformer.ImageConfig):
    """Sizes of the image tower of a CLIP model."""

    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    patch: int = 32
    mean: tuple[float, ...] = (122.770938, 116.746013, 104.093736)
    std: tuple[float, ...] = (68.500533, 66.632158, 70.323163)


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(transformer.TextConfig):
    """Sizes of the text tower of a CLIP model."""

    width: int = 512
    heads: int = 8
    hidden: int = 2048
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    vocabulary: int = 49408
    positions: int = 77


VISION_CONFIGS = {
    "clip-b32": ClipVisionConfig(),
    "clip-b16": ClipVisionConfig(patch=16),
    "clip-l14": ClipVisionConfig(
        width=1024, layers=24, heads=16, hidden=4096, patch=14
    ),
}
TEXT_CONFIGS = {
    "clip-b32": ClipTextConfig(),
    "clip-b16": ClipTextConfig(),
    "clip-l14": ClipTextConfig(width=768, heads=12, hidden=3072),
}

# Files may contain one tower, or both with their projections. The last norm
# of the image tower is ignored: it applies only to CLS, not to the patches.
_IGNORED = (
    r"(.*\.)?position_ids|logit_scale|(text|visual)_projection\.weight"
    r"|(post_layernorm|classifier)\..*"
)
VISION_KEYS = KeyMap(
    pairs=(
        *transformer.LAYER_PAIRS,
        (r"cls", r"embeddings.class_embedding"),
        (r"patch_embedding", r"embeddings.patch_embedding"),
        (r"pre_norm", r"pre_layrnorm"),  # spelled this way in the original
    ),
    ignored=rf"{_IGNORED}|text_model\..*",
    prefix="vision_model.",
)
TEXT_KEYS = KeyMap(
    pairs=transformer.TEXT_PAIRS,
    ignored=rf"{_IGNORED}|vision_model\..*",
    prefix="text_model.",
)


def _tower(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    # In a file with both towers, the older `*_config_dict` takes precedence.
    second = config.get(f"{name}_config_dict")
    return config.get(f"{name}_config", config) if second is None else second


def vision_from_original(config: Mapping[str, Any]) -> ClipVisionConfig:
    """Reads the config.json of a CLIP model or of its image tower.

    Raises:
      UserError: if a value is not supported.
    """
    return transformer.from_original(
        ClipVisionConfig, _tower(config, "vision"), num_channels=3
    )


def text_from_original(config: Mapping[str, Any]) -> ClipTextConfig:
    """Reads the config.json of a CLIP model or of its text tower.

    Raises:
      UserError: if a value is not supported.
    """
    return transformer.from_original(ClipTextConfig, _tower(config, "text"))


def vision_to_original(config: ClipVisionConfig) -> dict[str, Any]:
    """Returns the config.json for transformers' CLIPVisionModel."""
    return transformer.to_original(
        config, "clip_vision_model", "CLIPVisionModel"
    )


def text_to_original(config: ClipTextConfig) -> dict[str, Any]:
    """Returns the config.json for transformers' CLIPTextModel."""
    return transformer.to_original(config, "clip_text_model", "CLIPTextModel")


class ClipVision(nn.Module):
    """CLIP's image tower; returns CLS and patches without the final norm.

    Attributes:
      config: the model's sizes.
      dtype: dtype of the computation; parameters, softmax and the norms'
        statistics are float32.
      remat: whether the backward pass recomputes each layer to save memory.
    """

    config: ClipVisionConfig
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
          [B, 1 + P, width], CLS first; each patch covers a square of
          `config.patch` pixels per side.
        """
        config = self.config
        x = patches.PatchEmbedding(
            config, use_bias=False, dtype=self.dtype, name="patch_embedding"
        )(images_BxHxWx3)
        cls = self.param("cls", layers.INIT, (config.width,))
        positions = self.param(
            "position_embedding",
            layers.INIT,
            (1 + config.patches, config.width),
        )
        x = patches.add_positions(x, positions, cls[None])
        x = transformer.norm(config, self.dtype, "pre_norm")(x)
        return transformer.layers(config, x, dtype=self.dtype, remat=self.remat)


class ClipText(transformer.TextTransformer):
    """CLIP's text tower, with causal attention."""

    causal: bool = True


VISION_FAMILY = Family(
    ClipVision,
    ClipVisionConfig,
    VISION_KEYS,
    vision_from_original,
    vision_to_original,
)
TEXT_FAMILY = Family(
    ClipText, ClipTextConfig, TEXT_KEYS, text_from_original, text_to_original
)
