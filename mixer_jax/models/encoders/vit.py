"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929)."""

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
class ViTConfig(transformer.ImageConfig):
    """Sizes of a Vision Transformer."""

    epsilon: float = 1e-12


CONFIGS = {
    "vit-s": ViTConfig(width=384, heads=6, hidden=1536),
    "vit-b": ViTConfig(),
    "vit-l": ViTConfig(width=1024, layers=24, heads=16, hidden=4096),
}

KEYS = KeyMap(
    pairs=(
        (r"cls", r"embeddings.cls_token"),
        (r"patch_embedding", r"embeddings.patch_embeddings.projection"),
        (r"position_embedding", r"embeddings.position_embeddings"),
        (
            r"layer(\d+)/(query|key|value)",
            r"encoder.layer.\1.attention.attention.\2",
        ),
        (r"layer(\d+)/output", r"encoder.layer.\1.attention.output.dense"),
        (r"layer(\d+)/norm1", r"encoder.layer.\1.layernorm_before"),
        (r"layer(\d+)/norm2", r"encoder.layer.\1.layernorm_after"),
        (r"layer(\d+)/expand", r"encoder.layer.\1.intermediate.dense"),
        (r"layer(\d+)/project", r"encoder.layer.\1.output.dense"),
        (r"norm", r"layernorm"),
    ),
    ignored=r"embeddings\.mask_token|(pooler|classifier|decoder)\..*",
    prefix="vit.",
)


def from_original(config: Mapping[str, Any]) -> ViTConfig:
    """Reads the config.json of transformers' ViT.

    Raises:
      UserError: if a value is not supported.
    """
    return transformer.from_original(
        ViTConfig, config, num_channels=3, qkv_bias=True
    )


def to_original(config: ViTConfig) -> dict[str, Any]:
    """Returns the config.json for transformers' ViTModel."""
    return transformer.to_original(config, "vit", "ViTModel")


class ViT(nn.Module):
    """Vision Transformer, which returns the CLS token and the patches.

    Attributes:
      config: the model's sizes.
      dropout: dropout rate of the embeddings, the attention weights and every
        sublayer's output.
      dtype: dtype of the computation; parameters, softmax and the norms'
        statistics are float32.
      remat: whether the backward pass recomputes each layer to save memory.
    """

    config: ViTConfig
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images_BxHxWx3: jax.Array, train: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images_BxHxWx3: uint8 or float pixels in 0..255, of any size.
          train: turns dropout on; needs the "dropout" RNG stream.

        Returns:
          [B, 1 + P, width], CLS first; each patch covers a square of
          `config.patch` pixels per side.
        """
        config = self.config
        dropout = self.dropout if train else 0.0
        x = patches.PatchEmbedding(
            config, dtype=self.dtype, name="patch_embedding"
        )(images_BxHxWx3)
        cls, positions = (
            self.param(name, layers.INIT, (1, rows, config.width))
            for name, rows in (
                ("cls", 1),
                ("position_embedding", 1 + config.patches),
            )
        )
        x = patches.add_positions(x, positions[0], cls[0])
        x = nn.Dropout(dropout, deterministic=not train)(x)
        x = transformer.layers(config, x, None, dropout, self.dtype, self.remat)
        return transformer.norm(config, self.dtype, "norm")(x)


FAMILY = Family(ViT, ViTConfig, KEYS, from_original, to_original)
