"""Convolution with batch normalisation, in forms that CPUs run fast too.

XLA's CPU backend is weak in three places that image encoders live on: grouped
convolutions (ten times slower than shifted products), convolutions with
1x1 kernels (a plain matrix product is faster) and sums over all pixels that
keep the channels (scalar code). Accelerators keep the native convolution.
"""

from functools import partial
from math import gcd

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME" padding (before, after); the odd one goes after."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _add_groups(term, count: int):
    # Explicit sums over groups of the batch vectorise over channels, where
    # XLA's CPU reductions run scalar. The group index is the inner one so
    # that a batch split over devices stays split.
    return sum(term(index) for index in range(count))


def _sum_pixels(x_NxHxWxC: jax.Array) -> jax.Array:
    channels = x_NxHxWxC.shape[-1]
    x_MxC = x_NxHxWxC.reshape(-1, channels)
    ones = jnp.ones((1, x_MxC.shape[0]), x_MxC.dtype)
    return jnp.dot(ones, x_MxC, preferred_element_type=jnp.float32)[0]


@jax.custom_vjp
def channel_sum(x_BxHxWxC: jax.Array) -> jax.Array:
    """Sums over all axes but the last: [B, H, W, C] -> f32 [C]."""
    count = gcd(x_BxHxWxC.shape[0], 8)
    grouped = x_BxHxWxC.reshape(-1, count, *x_BxHxWxC.shape[1:])
    return _sum_pixels(_add_groups(lambda i: grouped[:, i], count))


def _channel_sum_forward(x):
    return channel_sum(x), x


def _channel_sum_backward(x, gradient_C):
    gradient = gradient_C.astype(x.dtype)[None, None, None]
    return (jnp.broadcast_to(gradient, x.shape),)


channel_sum.defvjp(_channel_sum_forward, _channel_sum_backward)


@jax.custom_vjp
def add_bias(x_BxHxWxC: jax.Array, bias_C: jax.Array) -> jax.Array:
    """Adds one value a channel; its gradient is a fast `channel_sum`."""
    return x_BxHxWxC + bias_C.astype(x_BxHxWxC.dtype)[None, None, None]


def _add_bias_forward(x, bias):
    return add_bias(x, bias), bias


def _add_bias_backward(bias, gradient):
    return gradient, channel_sum(gradient).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _native_depthwise(x, kernel, stride):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=_NHWC,
        feature_group_count=x.shape[-1],
    )


def _pad_same(x, size, stride):
    rows, cols = (same_padding(n, size, stride) for n in x.shape[1:3])
    return jnp.pad(x, ((0, 0), rows, cols, (0, 0)))


def _shifted_depthwise(x, kernel, stride):
    size = kernel.shape[0]
    batch, height, width, channels = x.shape
    rows, cols = -(-height // stride), -(-width // stride)
    padded = _pad_same(x, size, stride)

    def tap(i, j):
        window = lax.slice(
            padded,
            (0, i, j, 0),
            (
                batch,
                i + (rows - 1) * stride + 1,
                j + (cols - 1) * stride + 1,
                channels,
            ),
            (1, stride, stride, 1),
        )
        return window * kernel[i, j, 0][None, None, None]

    return sum(tap(i, j) for i in range(size) for j in range(size))


def _shifted_input_gradient(x, kernel, stride, gradient):
    """One sum of taps for each phase of the stride, then interleaved."""
    size = kernel.shape[0]
    batch, height, width, channels = x.shape
    top = same_padding(height, size, stride)[0]
    left = same_padding(width, size, stride)[0]
    rows, cols = -(-height // stride), -(-width // stride)

    # How far taps reach over the gradient's edges, in its cells.
    margins = tuple(
        (-((first - size + 1) // stride), (stride - 1 + first) // stride)
        for first in (top, left)
    )
    # The barrier keeps the padding out of the taps' inner loop.
    padded = lax.optimization_barrier(
        jnp.pad(gradient, ((0, 0), *margins, (0, 0)))
    )

    def taps(phase, offset, margin):
        for i in range(size):
            if (phase + offset - i) % stride == 0:
                yield i, margin[0] + (phase + offset - i) // stride

    def phase(p, q):
        return sum(
            padded[:, row : row + rows, col : col + cols]
            * kernel[i, j, 0][None, None, None]
            for i, row in taps(p, top, margins[0])
            for j, col in taps(q, left, margins[1])
        )

    if stride == 1:
        return phase(0, 0)
    phases = jnp.stack(
        [
            jnp.stack([phase(p, q) for q in range(stride)], 3)
            for p in range(stride)
        ],
        2,
    )
    whole = phases.reshape(batch, rows * stride, cols * stride, channels)
    return whole[:, :height, :width]


def _shifted_kernel_gradient(x, kernel, stride, gradient):
    size = kernel.shape[0]
    batch, rows, cols, channels = gradient.shape
    padded = lax.optimization_barrier(_pad_same(x, size, stride))
    count = gcd(batch, 8)
    padded = padded.reshape(-1, count, *padded.shape[1:])
    gradient = gradient.reshape(-1, count, *gradient.shape[1:])
    window = (
        batch // count,
        1,
        (rows - 1) * stride + 1,
        (cols - 1) * stride + 1,
        channels,
    )

    def tap(position):
        i, j = position

        def term(index):
            x = lax.dynamic_slice(padded, (0, index, i, j, 0), window)
            return x[:, 0, ::stride, ::stride] * gradient[:, index]

        return _sum_pixels(_add_groups(term, count))

    # A loop over taps, not an unrolled sum: it compiles ten times faster.
    positions = jnp.unravel_index(jnp.arange(size * size), (size, size))
    return lax.map(tap, positions).reshape(kernel.shape).astype(kernel.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(
    x_BxHxWxC: jax.Array, kernel_KxKx1xC: jax.Array, stride: int
) -> jax.Array:
    """Depthwise convolution with "SAME" padding.

    Args:
      x_BxHxWxC: the feature map.
      kernel_KxKx1xC: one K x K filter a channel, of the map's dtype.
      stride: of both axes.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C] of the map's dtype. On CPU
      both passes are sums of shifted products, elsewhere the grouped
      convolution.
    """
    return lax.platform_dependent(
        x_BxHxWxC,
        kernel_KxKx1xC,
        cpu=partial(_shifted_depthwise, stride=stride),
        default=partial(_native_depthwise, stride=stride),
    )


def _depthwise_forward(x, kernel, stride):
    return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, saved, gradient):
    def shifted(x, kernel, gradient):
        return (
            _shifted_input_gradient(x, kernel, stride, gradient),
            _shifted_kernel_gradient(x, kernel, stride, gradient),
        )

    def native(x, kernel, gradient):
        convolve = partial(_native_depthwise, stride=stride)
        return jax.vjp(convolve, x, kernel)[1](gradient)

    return lax.platform_dependent(*saved, gradient, cpu=shifted, default=native)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def convolve(
    x_BxHxWxC: jax.Array,
    kernel_KxKxCxF: jax.Array,
    stride: int,
    padding: str | int = "SAME",
) -> jax.Array:
    """Dense convolution; a 1x1 kernel becomes a matrix product."""
    size = kernel_KxKxCxF.shape[0]
    if size == 1:
        x_BxHxWxC = x_BxHxWxC[:, ::stride, ::stride]
        return jnp.dot(x_BxHxWxC, kernel_KxKxCxF[0, 0])
    if padding != "SAME":
        padding = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(
        x_BxHxWxC,
        kernel_KxKxCxF,
        (stride, stride),
        padding,
        dimension_numbers=_NHWC,
    )


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, activation.

    With running statistics the normalisation is folded into the kernel, so it
    costs nothing a pixel. Statistics and parameters are float32.

    Attributes:
      features: channels out; a depthwise layer keeps the channels in.
      size: of the kernel.
      stride: of both axes.
      depthwise: one filter a channel.
      padding: "SAME" (TensorFlow's) or pixels on each side.
      activation: applied last; None for none.
      momentum: of the running statistics.
      epsilon: added to the variance.
      dtype: of the computation.
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
        """[B, H, W, C] -> [B, H', W', F].

        Args:
          x_BxHxWxC: the feature map.
          batch_stats: normalise by this batch and update the running
            statistics; otherwise use the running statistics.
        """
        channels = 1 if self.depthwise else x_BxHxWxC.shape[-1]
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(2.0, "fan_out", "normal")
            if not self.depthwise
            else nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
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
            x = conv(kernel)
            count = x.size // x.shape[-1]
            batch_mean = channel_sum(x) / count
            centred = x - batch_mean.astype(x.dtype)[None, None, None]
            batch_var = channel_sum(jnp.square(centred)) / count
            if not self.is_initializing():
                # As PyTorch does it, what is kept estimates the variance of
                # all data: the batch's own is biased towards its mean.
                unbiased = batch_var * (count / max(count - 1, 1))
                for running, now in ((mean, batch_mean), (var, unbiased)):
                    running.value += (1 - self.momentum) * (now - running.value)
            factor = scale * lax.rsqrt(batch_var + self.epsilon)
            x = centred * factor.astype(x.dtype)[None, None, None]
            x = add_bias(x, bias)
        else:
            factor = scale * lax.rsqrt(var.value + self.epsilon)
            x = conv(kernel * factor[None, None, None])
            x = add_bias(x, bias - mean.value * factor)
        return x if self.activation is None else self.activation(x)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6), with one comparison mask as its derivative."""
    return lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype))
