"""Pre-norm transformers, shared by ViT, CLIP and SigLIP.

Image layers follow Dosovitskiy et al. (arXiv 2010.11929), and text layers
follow Radford et al. (arXiv 2103.00020). Sizes missing from an original's
config.json take the defaults of transformers, which are also the defaults of
the configs in this package.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.encoders.family import check_fixed, unsupported
from mixer_jax.models.encoders.layers import INIT, dense, self_attention
from mixer_jax.models.kernels import activations

# Keyed by the names in config.json.
ACTIVATIONS = {
    "gelu": activations.gelu,
    "gelu_pytorch_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a stack of layers."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: str = "gelu"  # a key of `ACTIVATIONS`
    epsilon: float = 1e-6  # epsilon of the layer norms


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
    """Sizes and pixel normalization of an image encoder."""

    patch: int = 16  # side of a patch in pixels
    image_size: int = 224  # pixels per side covered by the stored positions
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)  # of pixels in 0..255
    std: tuple[float, ...] = (127.5, 127.5, 127.5)

    @property
    def patches(self) -> int:
        """Number of patches with a stored position embedding."""
        return (self.image_size // self.patch) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig(Config):
    """Sizes of a text encoder."""

    vocabulary: int = 32000
    positions: int = 64  # maximum number of tokens per text


_AnyConfig = TypeVar("_AnyConfig", bound=Config)

_NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "patch": "patch_size",
    "image_size": "image_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}


def from_original(
    kind: type[_AnyConfig], config: Mapping[str, Any], **only: Any
) -> _AnyConfig:
    """Reads a config.json from transformers.

    Args:
      kind: the class of the result.
      config: the file's content; missing keys have the defaults of `kind`.
      **only: further keys, each with its only supported value.

    Raises:
      UserError: if a value is not supported.
    """
    check_fixed("original", config, only)
    names = {field.name for field in dataclasses.fields(kind)}
    sizes = {
        ours: config[theirs]
        for ours, theirs in _NAMES.items()
        if ours in names and theirs in config
    }
    if sizes.get("activation", kind.activation) not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise unsupported("original", "hidden_act", config["hidden_act"], known)
    for ours in {"patch", "image_size"} & sizes.keys():
        if isinstance(sizes[ours], list | tuple):
            height, width = sizes[ours]
            if height != width:
                raise unsupported(
                    "original", _NAMES[ours], sizes[ours], "squares"
                )
            sizes[ours] = height
    return kind(**sizes)


def to_original(
    config: Config, model_type: str, architecture: str, **more: Any
) -> dict[str, Any]:
    """Returns a transformers config.json that `from_original` can read."""
    sizes = {
        theirs: getattr(config, ours)
        for ours, theirs in _NAMES.items()
        if hasattr(config, ours)
    }
    names = {"model_type": model_type, "architectures": [architecture]}
    return names | sizes | more


# Tensor names shared by CLIP and SigLIP.
LAYER_PAIRS = (
    (r"layer(\d+)/query", r"encoder.layers.\1.self_attn.q_proj"),
    (r"layer(\d+)/key", r"encoder.layers.\1.self_attn.k_proj"),
    (r"layer(\d+)/value", r"encoder.layers.\1.self_attn.v_proj"),
    (r"layer(\d+)/output", r"encoder.layers.\1.self_attn.out_proj"),
    (r"layer(\d+)/norm([12])", r"encoder.layers.\1.layer_norm\2"),
    (r"layer(\d+)/expand", r"encoder.layers.\1.mlp.fc1"),
    (r"layer(\d+)/project", r"encoder.layers.\1.mlp.fc2"),
    (r"position_embedding", r"embeddings.position_embedding.weight"),
)
TEXT_PAIRS = (
    *LAYER_PAIRS,
    (r"word_embedding", r"embeddings.token_embedding.weight"),
    (r"norm", r"final_layer_norm"),
)


class Layer(nn.Module):
    """Attention, then an MLP, each with a residual connection.

    Attributes:
      config: the layer's sizes.
      dropout: dropout rate of the attention weights and both sublayer outputs.
      dtype: dtype of the computation; softmax and statistics are float32.
    """

    config: Config
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x_BxLxC: jax.Array, bias_Bx1xLxL: jax.Array | None = None
    ) -> jax.Array:
        """Maps [B, L, C] to [B, L, C].

        Args:
          x_BxLxC: the token vectors.
          bias_Bx1xLxL: float32, added to the attention logits; axes may have
            size 1.
        """
        config = self.config

        def dropout(x):
            return nn.Dropout(self.dropout, deterministic=not self.dropout)(x)

        x = norm(config, self.dtype, "norm1")(x_BxLxC)
        rng = self.make_rng("dropout") if self.dropout else None
        y = self_attention(
            x,
            config.heads,
            bias=bias_Bx1xLxL,
            dtype=self.dtype,
            dropout=self.dropout,
            rng=rng,
        )
        x_BxLxC = x_BxLxC + dropout(y)
        x = norm(config, self.dtype, "norm2")(x_BxLxC)
        x = dense(config.hidden, self.dtype, "expand")(x)
        x = ACTIVATIONS[config.activation](x)
        return x_BxLxC + dropout(dense(config.width, self.dtype, "project")(x))


def norm(config: Config, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """Returns a layer norm as a submodule of the calling module."""
    return nn.LayerNorm(epsilon=config.epsilon, dtype=dtype, name=name)


def layers(
    config: Config,
    x_BxLxC: jax.Array,
    bias_Bx1xLxL: jax.Array | None = None,
    dropout: float = 0.0,
    dtype: jnp.dtype = jnp.float32,
    remat: bool = False,
) -> jax.Array:
    """Applies the submodules `layer0`, `layer1`, ... of the calling module.

    Args:
      config: the layers' sizes.
      x_BxLxC: the token vectors.
      bias_Bx1xLxL: see `Layer`.
      dropout: the dropout rate of this call; 0 outside training.
      dtype: dtype of the computation.
      remat: whether the backward pass recomputes each layer to save memory.

    Returns:
      [B, L, C], not normalized.
    """
    layer = nn.remat(Layer) if remat else Layer
    for index in range(config.layers):
        x_BxLxC = layer(config, dropout, dtype, name=f"layer{index}")(
            x_BxLxC, bias_Bx1xLxL
        )
    return x_BxLxC


class TextTransformer(nn.Module):
    """Transformer text encoder, which returns token vectors.

    Attributes:
      config: the model's sizes.
      dtype: dtype of the computation; parameters, softmax and the norms'
        statistics are float32.
      remat: whether the backward pass recomputes each layer to save memory.
      causal: whether a token attends only to itself and the tokens before it.
    """

    config: TextConfig
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BxL: jax.Array,
        mask_BxL: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        """Encodes texts.

        Args:
          tokens_BxL: int32 [B, L], L at most `config.positions`.
          mask_BxL: bool [B, L], False on padding; padding never influences
            the other tokens. The result for a row without any token is finite
            but meaningless.
          train: has no effect; there is no dropout.

        Returns:
          [B, L, width].
        """
        config, length = self.config, tokens_BxL.shape[1]
        words, positions = (
            self.param(name, INIT, (rows, config.width), jnp.float32)
            for name, rows in (
                ("word_embedding", config.vocabulary),
                ("position_embedding", config.positions),
            )
        )
        x = words[tokens_BxL] + positions[None, :length]
        mask = mask_BxL[:, None, None]
        if self.causal:
            mask = mask & jnp.tri(length, dtype=bool)[None, None]
        bias = jnp.where(mask, 0.0, -1e9)
        x = x.astype(self.dtype)
        x = layers(config, x, bias, dtype=self.dtype, remat=self.remat)
        return norm(config, self.dtype, "norm")(x)
