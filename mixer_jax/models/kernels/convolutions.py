"""Convolutions that are fast on CPUs as well as on accelerators.

XLA's CPU backend is slow on the convolutions of image encoders: a grouped
convolution takes ten times as long as a sum of shifted products, and the kernel
gradient of a dense convolution takes longer than one matrix product per kernel
position. Accelerators use the native convolution.
"""

from functools import partial
from math import gcd

import jax
import jax.numpy as jnp
from jax import lax

from mixer_jax.models.kernels.channel_sums import add_groups, sum_pixels

_NHWC = ("NHWC", "HWIO", "NHWC")
_FEW = 32  # channel threshold in `_dense_backward`


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns TensorFlow's "SAME" padding, (before, after); after >= before."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


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
    """Sums the taps of each phase of the stride and interleaves the sums."""
    size = kernel.shape[0]
    batch, height, width, channels = x.shape
    top = same_padding(height, size, stride)[0]
    left = same_padding(width, size, stride)[0]
    rows, cols = -(-height // stride), -(-width // stride)

    # How far the taps extend beyond the gradient's edges, in cells.
    margins = tuple(
        (-((first - size + 1) // stride), (stride - 1 + first) // stride)
        for first in (top, left)
    )
    # The barrier keeps XLA from fusing the padding into the taps' loop.
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

        return sum_pixels(add_groups(term, count))

    # A loop over taps compiles ten times faster than unrolled code.
    positions = jnp.unravel_index(jnp.arange(size * size), (size, size))
    return lax.map(tap, positions).reshape(kernel.shape).astype(kernel.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(
    x_BxHxWxC: jax.Array, kernel_KxKx1xC: jax.Array, stride: int
) -> jax.Array:
    """Returns a depthwise convolution with "SAME" padding.

    The forward and backward passes are sums of shifted products on CPU, and
    grouped convolutions elsewhere.

    Args:
      x_BxHxWxC: the feature map.
      kernel_KxKx1xC: one K x K filter per channel, in the map's dtype.
      stride: stride of both axes.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C] in the map's dtype.
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


def _native_dense(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_NHWC
    )


def _taps(x, size, stride, padding):
    """Yields the part of x that each kernel position reads, [B, R, Q, C]."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    batch, height, width, channels = padded.shape
    rows, cols = ((n - size) // stride + 1 for n in (height, width))
    for i in range(size):
        for j in range(size):
            yield lax.slice(
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


def _product_kernel_gradient(x, kernel, stride, padding, gradient):
    """Computes the kernel gradient with one matrix product per position."""
    size, _, channels, features = kernel.shape
    gradient = gradient.reshape(-1, features)
    products = [
        jnp.dot(tap.reshape(-1, channels).T, gradient)
        for tap in _taps(x, size, stride, padding)
    ]
    return jnp.stack(products).reshape(kernel.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x, kernel, stride, padding):
    return _native_dense(x, kernel, stride, padding)


def _dense_forward(x, kernel, stride, padding):
    return _dense(x, kernel, stride, padding), (x, kernel)


def _dense_backward(stride, padding, saved, gradient):
    x, kernel = saved
    convolve = partial(_native_dense, stride=stride, padding=padding)
    (by_x,) = jax.vjp(lambda x: convolve(x, kernel), x)[1](gradient)

    def native(x, kernel, gradient):
        return jax.vjp(lambda k: convolve(x, k), kernel)[1](gradient)[0]

    def products(x, kernel, gradient):
        return _product_kernel_gradient(x, kernel, stride, padding, gradient)

    # With few channels, the matrix products are too small to pay off.
    few = kernel.shape[2] < _FEW
    by_kernel = lax.platform_dependent(
        x, kernel, gradient, cpu=native if few else products, default=native
    )
    return by_x, by_kernel


_dense.defvjp(_dense_forward, _dense_backward)


def convolve(
    x_BxHxWxC: jax.Array,
    kernel_KxKxCxF: jax.Array,
    stride: int,
    padding: str | int = "SAME",
) -> jax.Array:
    """Returns a dense convolution.

    A 1x1 kernel is applied as a matrix product. For larger kernels, the
    kernel's gradient is a sequence of matrix products on CPU, unless the map
    has few channels; all other cases use the native convolution.

    Args:
      x_BxHxWxC: the feature map.
      kernel_KxKxCxF: the kernel, in the map's dtype.
      stride: stride of both axes.
      padding: "SAME", as in TensorFlow, or the number of pixels on each side.

    Returns:
      [B, H', W', F] in the map's dtype.
    """
    size = kernel_KxKxCxF.shape[0]
    if size == 1:
        x_BxHxWxC = x_BxHxWxC[:, ::stride, ::stride]
        return jnp.dot(x_BxHxWxC, kernel_KxKxCxF[0, 0])
    if padding == "SAME":
        sides = x_BxHxWxC.shape[1:3]
        around = tuple(same_padding(n, size, stride) for n in sides)
    else:
        around = ((padding, padding),) * 2
    return _dense(x_BxHxWxC, kernel_KxKxCxF, stride, around)
