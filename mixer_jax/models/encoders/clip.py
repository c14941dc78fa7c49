"""CLIP's towers (Radford et al., arXiv 2103.00020), without projections."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.encoders import patches, transformer
from mixer_jax.models.encoders.key_map import KeyMap


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig(transformer.ImageConfig):
    """Sizes of one member's image tower."""

    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    patch: int = 32
    mean: tuple[float, ...] = (122.770938, 116.746013, 104.093736)
    std: tuple[float, ...] = (68.500533, 66.632158, 70.323163)


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(transformer.TextConfig):
    """Sizes of one member's text tower."""

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

# Files may hold one tower or both, and the latter's projections. The last
# norm of the images is of CLS alone and in no patch.
_IGNORED = (
    r"(.*\.)?position_ids|logit_scale|(text|visual)_projection\.weight"
    r"|(post_layernorm|classifier)\..*"
)
VISION_KEYS = KeyMap(
    pairs=(
        *transformer.LAYER_PAIRS,
        (r"cls", r"embeddings.class_embedding"),
        (r"patch_embedding", r"embeddings.patch_embedding"),
        (r"pre_norm", r"pre_layrnorm"),  # spelled so
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
    # Where a file of both towers has a second form, that one counts.
    second = config.get(f"{name}_config_dict")
    return config.get(f"{name}_config", config) if second is None else second


def vision_from_original(config: Mapping[str, Any]) -> ClipVisionConfig:
    """Reads the config.json of a CLIP, or of its image tower.

    Raises:
      UserError: for a value that we do not support.
    """
    return transformer.from_original(
        ClipVisionConfig, _tower(config, "vision"), num_channels=3
    )


def text_from_original(config: Mapping[str, Any]) -> ClipTextConfig:
    """Reads the config.json of a CLIP, or of its text tower.

    Raises:
      UserError: for a value that we do not support.
    """
    return transformer.from_original(ClipTextConfig, _tower(config, "text"))


def vision_to_original(config: ClipVisionConfig) -> dict[str, Any]:
    """Returns the config.json of transformers' CLIPVisionModel."""
    return transformer.to_original(
        config, "clip_vision_model", "CLIPVisionModel"
    )


def text_to_original(config: ClipTextConfig) -> dict[str, Any]:
    """Returns the config.json of transformers' CLIPTextModel."""
    return transformer.to_original(config, "clip_text_model", "CLIPTextModel")


class ClipVision(nn.Module):
    """Images to patches, after the CLS token; not normalised at the end.

    Attributes:
      config: the member's sizes.
      dtype: of the computation; parameters, softmax and norms' statistics are
        float32.
      remat: keep no layer's inside for the backward pass.
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
          train: changes nothing; there is no dropout.

        Returns:
          [B, 1 + P, width], CLS first; a patch for `config.patch` pixels of
          height and width.
        """
        config = self.config
        x = patches.PatchEmbedding(
            config, use_bias=False, dtype=self.dtype, name="patch_embedding"
        )(images_BxHxWx3)
        cls = self.param("cls", transformer.INIT, (config.width,))
        positions = self.param(
            "position_embedding",
            transformer.INIT,
            (1 + config.patches, config.width),
        )
        x = patches.add_positions(x, positions, cls[None])
        x = transformer.norm(config, self.dtype, "pre_norm")(x)
        return transformer.layers(config, x, dtype=self.dtype, remat=self.remat)


class ClipText(transformer.TextTransformer):
    """CLIP's text tower: tokens see only those before them."""

    causal: bool = True
