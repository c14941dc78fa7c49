"""Swin Transformer (Liu et al., arXiv 2103.14030): windowed attention."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mixer_jax.models.encoders import layers
from mixer_jax.models.encoders.family import Family, check_fixed, unsupported
from mixer_jax.models.encoders.key_map import KeyMap
from mixer_jax.models.kernels import activations


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin Transformer; tuples have one entry per stage."""

    width: int = 96  # width of the first stage; each later stage doubles it
    blocks: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    patch: int = 4  # pixels per side
    window: int = 7  # patches per side
    mlp_ratio: float = 4.0
    mean: tuple[float, ...] = layers.IMAGENET_MEAN
    std: tuple[float, ...] = layers.IMAGENET_STD


CONFIGS = {
    "swin-t": SwinConfig(),
    "swin-s": SwinConfig(blocks=(2, 2, 18, 2)),
    "swin-b": SwinConfig(width=128, blocks=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}

_STAGE, _STAGE_THEIRS = r"stage(\d+)_", r"encoder.layers.\1."
_BLOCK, _BLOCK_THEIRS = _STAGE + r"block(\d+)/", _STAGE_THEIRS + r"blocks.\2."
KEYS = KeyMap(
    pairs=(
        ("patch_embedding", "embeddings.patch_embeddings.projection"),
        ("patch_norm", "embeddings.norm"),
        (_BLOCK + "norm1", _BLOCK_THEIRS + "layernorm_before"),
        (
            _BLOCK + "(query|key|value|relative_position_bias_table)",
            _BLOCK_THEIRS + r"attention.self.\3",
        ),
        (_BLOCK + "output", _BLOCK_THEIRS + "attention.output.dense"),
        (_BLOCK + "norm2", _BLOCK_THEIRS + "layernorm_after"),
        (_BLOCK + "expand", _BLOCK_THEIRS + "intermediate.dense"),
        (_BLOCK + "project", _BLOCK_THEIRS + "output.dense"),
        (_STAGE + "merge/(norm|reduction)", _STAGE_THEIRS + r"downsample.\2"),
        ("norm", "layernorm"),
    ),
    ignored=(
        r".*\.relative_position_index|embeddings\.mask_token"
        r"|(classifier|decoder)\..*"
    ),
    prefix="swin.",
)

# Original names of our fields, and keys that support only one value.
_FIELDS = {
    "width": "embed_dim",
    "blocks": "depths",
    "heads": "num_heads",
    "patch": "patch_size",
    "window": "window_size",
    "mlp_ratio": "mlp_ratio",
}
_FIXED = {
    "model_type": "swin",
    "num_channels": 3,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}


def from_original(config: Mapping[str, Any]) -> SwinConfig:
    """Reads the original's config.json.

    Raises:
      UserError: if a value is not supported.
    """
    check_fixed("Swin", config, _FIXED)
    sizes = {o: config[t] for o, t in _FIELDS.items() if t in config}
    for name in ("patch", "window"):
        if not isinstance(sizes.get(name, 1), int):
            known = "a single number for both sides"
            raise unsupported("Swin", _FIELDS[name], sizes[name], known)
    for name in ("blocks", "heads"):
        if name in sizes:
            sizes[name] = tuple(sizes[name])
    return SwinConfig(**sizes)


def to_original(config: SwinConfig) -> dict[str, Any]:
    """Returns a config.json that transformers loads."""
    sizes = {t: getattr(config, o) for o, t in _FIELDS.items()}
    for key in ("depths", "num_heads"):
        sizes[key] = list(sizes[key])
    return {"architectures": ["SwinModel"], **_FIXED, **sizes}


def _pad(x_BxHxWxC, side):
    """Pads the ends of both axes with zeros to a multiple of `side`."""
    _, height, width, _ = x_BxHxWxC.shape
    return jnp.pad(
        x_BxHxWxC, ((0, 0), (0, -height % side), (0, -width % side), (0, 0))
    )


def _cells(x_BxHxWxC, side):
    """Splits a map into cells [B, H / side, W / side, side, side, C]."""
    batch, height, width, channels = x_BxHxWxC.shape
    rows, cols = height // side, width // side
    x = x_BxHxWxC.reshape(batch, rows, side, cols, side, channels)
    return x.swapaxes(2, 3)


def _window_and_shift(height, width, window, odd):
    """Returns the window side and the shift, which is 0 for even blocks.

    If the shorter side of the map is at most one window, it becomes the side
    of the windows, and the shift is 0 for odd blocks, too.
    """
    if min(height, width) <= window:
        return min(height, width), 0
    return window, window // 2 if odd else 0


def _bias_rows(window, table_window):
    """Returns each patch pair's row in the bias table, [L, L]."""
    place = np.stack(np.mgrid[:window, :window], -1).reshape(-1, 2)
    offset = place[:, None] - place[None] + table_window - 1
    return offset[..., 0] * (2 * table_window - 1) + offset[..., 1]


def _shift_mask(height, width, window, shift):
    """Returns a mask that separates patches joined only by the cyclic shift.

    Returns:
      f32 [W, 1, L, L] for W windows of L patches, to add to the logits.
    """

    def region(size):
        place = np.arange(size)
        return (place >= size - window) * 1 + (place >= size - shift)

    regions = region(height)[:, None] * 3 + region(width)[None]
    cells = _cells(regions[None, :, :, None], window)
    regions_WxL = cells.reshape(-1, window * window)
    hidden = regions_WxL[:, :, None] != regions_WxL[:, None]
    return np.where(hidden, -100.0, 0.0).astype(np.float32)[:, None]


def _norm(dtype, name):
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class _Block(nn.Module):
    config: SwinConfig
    heads: int
    odd: bool
    drop_path: float
    dtype: jnp.dtype

    def attend(self, x_BxHxWxC):
        config = self.config
        batch, height, width, channels = x_BxHxWxC.shape
        window, shift = _window_and_shift(
            height, width, config.window, self.odd
        )
        # As in the original, patches attend to the padding too.
        x = _pad(x_BxHxWxC, window)
        padded = x.shape
        if shift:
            x = jnp.roll(x, (-shift, -shift), (1, 2))
        x = _cells(x, window)
        cells = x.shape
        x_BxWxLxC = x.reshape(batch, -1, window * window, channels)

        table = self.param(
            "relative_position_bias_table",
            layers.INIT,
            ((2 * config.window - 1) ** 2, self.heads),
            jnp.float32,
        )
        bias_LxLxN = table[_bias_rows(window, config.window)]
        bias = bias_LxLxN.transpose(2, 0, 1)[None]
        if shift:
            bias += _shift_mask(padded[1], padded[2], window, shift)
        x = layers.self_attention(
            x_BxWxLxC, self.heads, bias=bias[None], dtype=self.dtype
        )

        x = x.reshape(cells).swapaxes(2, 3).reshape(padded)
        if shift:
            x = jnp.roll(x, (shift, shift), (1, 2))
        return x[:, :height, :width]

    @nn.compact
    def __call__(self, x_BxHxWxC, train):
        channels = x_BxHxWxC.shape[-1]
        hidden = int(channels * self.config.mlp_ratio)
        x = self.attend(_norm(self.dtype, "norm1")(x_BxHxWxC))
        # Stochastic depth: drop the sublayer for entire images. As in the
        # original, the second sublayer is never dropped.
        x = nn.Dropout(self.drop_path, (1, 2, 3), not train)(x)
        x += x_BxHxWxC
        y = _norm(self.dtype, "norm2")(x)
        y = activations.gelu(layers.dense(hidden, self.dtype, "expand")(y))
        return x + layers.dense(channels, self.dtype, "project")(y)


class _Merge(nn.Module):
    """Merges four neighboring patches into one with twice the channels."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxHxWxC):
        channels = x_BxHxWxC.shape[-1]
        # Concatenate as in the original: columns outer, rows inner.
        x = _cells(_pad(x_BxHxWxC, 2), 2).swapaxes(3, 4)
        x = _norm(self.dtype, "norm")(x.reshape(*x.shape[:3], -1))
        return layers.dense(
            2 * channels, self.dtype, "reduction", use_bias=False
        )(x)


class Swin(nn.Module):
    """Swin Transformer; patches are the cells of the last stage's map.

    Attributes:
      config: the model's sizes.
      drop_path: stochastic depth rate of the attention in the last block; the
        rate grows linearly from 0 in the first block. In training, attention
        is dropped for each image independently.
      dtype: dtype of the computation; parameters, softmax and the norms'
        statistics are float32.
      remat: whether the backward pass recomputes each block to save memory.
    """

    config: SwinConfig
    drop_path: float = 0.1
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, images_BxHxWx3: jax.Array, train: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images_BxHxWx3: uint8 or float pixels in 0..255; with four stages,
            each patch covers 32 x 32 pixels; the last patches may be padded.
          train: turns stochastic depth on; needs the "dropout" RNG stream.

        Returns:
          Patches [B, P, C].
        """
        config = self.config
        x = layers.normalize_pixels(images_BxHxWx3, config)
        x = nn.DenseGeneral(
            config.width,
            (-3, -2, -1),
            dtype=self.dtype,
            kernel_init=layers.INIT,
            name="patch_embedding",
        )(_cells(_pad(x, config.patch), config.patch))
        x = _norm(self.dtype, "patch_norm")(x)

        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        rates = np.linspace(0, self.drop_path, sum(config.blocks)).tolist()
        for stage, blocks in enumerate(config.blocks):
            if stage:
                x = _Merge(self.dtype, name=f"stage{stage - 1}_merge")(x)
            for index in range(blocks):
                x = block(
                    config,
                    config.heads[stage],
                    index % 2 == 1,
                    rates.pop(0),
                    self.dtype,
                    name=f"stage{stage}_block{index}",
                )(x, train)
        x = _norm(self.dtype, "norm")(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])


FAMILY = Family(Swin, SwinConfig, KEYS, from_original, to_original)
