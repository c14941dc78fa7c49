"""Layers shared by several encoders.

The functions apply their layers as submodules of the calling module.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mixer_jax.models.kernels import attention
from mixer_jax.models.kernels.channel_sums import add_bias, normalize_batch
from mixer_jax.models.kernels.convolutions import convolve, depthwise

INIT = nn.initializers.normal(0.02)  # for transformer parameters
# Per-channel statistics of ImageNet, for pixels in 0..255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def normalize_pixels(images_BxHxWx3: jax.Array, config: Any) -> jax.Array:
    """Returns float32 pixels, normalized by the config's `mean` and `std`."""
    mean, std = (
        jnp.array(v)[None, None, None] for v in (config.mean, config.std)
    )
    return (images_BxHxWx3.astype(jnp.float32) - mean) / std


def dense(
    features: int, dtype: jnp.dtype, name: str, use_bias: bool = True
) -> nn.Dense:
    """Returns a dense layer of a transformer."""
    return nn.Dense(
        features, use_bias=use_bias, dtype=dtype, kernel_init=INIT, name=name
    )


def self_attention(
    x: jax.Array,
    heads: int,
    *,
    bias: jax.Array | None,
    dtype: jnp.dtype,
    dropout: float = 0.0,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Applies the layers `query`, `key`, `value` and `output`.

    Args:
      x: [..., L, C], the token vectors.
      heads: number of attention heads.
      bias: added to the logits; see `attention.attend`.
      dtype: dtype of the computation; the softmax is float32.
      dropout: the dropout rate of the attention weights.
      rng: the random key for dropout; None turns dropout off.

    Returns:
      [..., L, C].
    """
    width = x.shape[-1]
    query, key, value = (
        dense(width, dtype, name)(x).reshape(*x.shape[:-1], heads, -1)
        for name in ("query", "key", "value")
    )
    y = attention.attend(query, key, value, bias, dropout, rng)
    return dense(width, dtype, "output")(y.reshape(x.shape))


class ConvNorm(nn.Module):
    """Convolution, batch normalization and activation.

    With running statistics, the normalization is folded into the kernel and
    costs nothing per pixel. Statistics and parameters are float32.

    Attributes:
      features: number of output channels; a depthwise layer requires the same
        number of input channels.
      size: kernel size.
      stride: stride of both axes.
      depthwise: whether to use one filter per channel.
      padding: "SAME", as in TensorFlow, or the number of pixels on each side.
      activation: the activation, applied last; None for no activation.
      momentum: momentum of the running statistics.
      epsilon: added to the variance.
      scale_init: initializer of the scale.
      dtype: dtype of the computation.
    """

    features: int
    size: int = 1
    stride: int = 1
    depthwise: bool = False
    padding: str | int = "SAME"
    activation: object = None
    momentum: float = 0.99
    epsilon: float = 1e-3
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array, batch_stats: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H', W', F].

        Args:
          x_BxHxWxC: the feature map.
          batch_stats: whether to normalize by the statistics of the batch and
            update the running statistics; if False, the running statistics
            are used.
        """
        channels = 1 if self.depthwise else x_BxHxWxC.shape[-1]
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(
                2.0, "fan_in" if self.depthwise else "fan_out", "normal"
            ),
            (self.size, self.size, channels, self.features),
            jnp.float32,
        )
        scale = self.param("scale", self.scale_init, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,))
        var = self.variable("batch_stats", "var", jnp.ones, (self.features,))

        def conv(kernel):
            x, kernel = x_BxHxWxC.astype(self.dtype), kernel.astype(self.dtype)
            if self.depthwise:
                return depthwise(x, kernel, self.stride)
            return convolve(x, kernel, self.stride, self.padding)

        if batch_stats:
            x, batch_mean, batch_var = normalize_batch(
                conv(kernel), scale, bias, self.epsilon
            )
            if not self.is_initializing():
                # Like PyTorch, store an unbiased estimate of the variance.
                count = x.size // x.shape[-1]
                unbiased = batch_var * (count / max(count - 1, 1))
                for running, now in ((mean, batch_mean), (var, unbiased)):
                    running.value += (1 - self.momentum) * (now - running.value)
        else:
            factor = scale * lax.rsqrt(var.value + self.epsilon)
            x = conv(kernel * factor[None, None, None])
            x = add_bias(x, bias - mean.value * factor)
        return x if self.activation is None else self.activation(x)
