"""Short factors, whose products bound cosines from above up to rounding.

A factor consists of the leading principal dimensions and the norm of the rest,
rounded. By Cauchy-Schwarz, the inner product of two rests is at most the
product of their norms. The rounding error of each factor is measured, to bound
the error of a product.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

_SAMPLE = 8192  # rows of each set used to find the principal dimensions
_ROUND_UP = 128  # the number of screening dimensions is a multiple of this
_MIXED = 64  # dimensions mixed with each other, a power of four
# Bound on the rounding error of the product of two mixed unit rows: the error
# of a sum of S numbers is at most S 2^-24 times the sum of their sizes.
MIXING = 2 * _MIXED**1.5 * 2.0**-24
_LEFT_OUT = 0.02  # maximum share of the squared norm that screening omits


def principal(wanted: np.ndarray, gallery: np.ndarray) -> np.ndarray | None:
    """Finds the dimensions that hold nearly all of the rows' squared norm.

    Args:
      wanted: f32 `[N, C]`, rows of one set.
      gallery: f32 `[M, C]`, rows of the other.

    Returns:
      f32 `[C, S - 1]`, orthonormal, S a multiple of 128; None if omitting the
      other dimensions would save little.
    """
    width = gallery.shape[1]
    if width < 2 * _ROUND_UP:
        return None
    sample = np.concatenate(
        [x[:: -(-len(x) // _SAMPLE)] for x in (wanted, gallery)]
    )
    # Do not center: the omitted part's norm matters, not its variance.
    power, basis = np.linalg.eigh(sample.T @ sample)
    power = np.maximum(power[::-1], 0.0).astype(np.float64)
    left_out = 1.0 - np.cumsum(power) / max(power.sum(), 1e-12)
    # One more dimension holds the norm of the omitted part.
    needed = int(np.argmax(left_out <= _LEFT_OUT)) + 2
    size = -(-needed // _ROUND_UP) * _ROUND_UP
    if size > 0.75 * width:
        return None
    return np.ascontiguousarray(basis[:, ::-1][:, : size - 1], np.float32)


@functools.cache
def fast_dtype() -> jnp.dtype:
    """Returns bfloat16 if its products are faster, else float32.

    The results of a search do not depend on the dtype.
    """
    if jax.default_backend() != "cpu":
        return jnp.dtype(jnp.bfloat16)
    if jax.process_count() > 1:  # timings could differ between processes
        return jnp.dtype(jnp.float32)
    product = jax.jit(products)
    seconds = {}
    # The CPU may be shared: alternate, and take the best of several timings.
    for _ in range(5):
        for dtype in map(jnp.dtype, (jnp.float32, jnp.bfloat16)):
            x = jnp.ones((512, 512), dtype)
            product(x, x).block_until_ready()
            start = time.perf_counter()
            product(x, x).block_until_ready()
            took = time.perf_counter() - start
            seconds[dtype] = min(took, seconds.get(dtype, took))
    return min(seconds, key=seconds.get)


def shorten(
    row_NxC: jax.Array, basis_CxM: jax.Array | None, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Returns the short factors of unit rows.

    Args:
      row_NxC: f32.
      basis_CxM: result of `principal`; None keeps all dimensions.
      dtype: the dtype of the factors.

    Returns:
      Factors `[N, S]`, and the norms f32 `[N]` of their rounding errors.
    """
    factor = row_NxC
    if basis_CxM is not None:
        lead = jnp.matmul(
            row_NxC, basis_CxM, precision=jax.lax.Precision.HIGHEST
        )
        rest = jnp.square(row_NxC).sum(1) - jnp.square(lead).sum(1)
        rest = jnp.sqrt(jnp.maximum(rest, 0.0) + rounding(row_NxC.shape[1]))
        factor = jnp.concatenate([lead, rest[:, None]], axis=1)
    short = factor.astype(dtype)
    moved = factor - short.astype(jnp.float32)
    return short, jnp.sqrt(jnp.square(moved).sum(1))


def rounding(width: int) -> float:
    """Returns a bound on the f32 error of unit vectors' inner products."""
    return width * 2.0**-23


def products(row_NxS: jax.Array, other_QxS: jax.Array) -> jax.Array:
    """Returns the products of all pairs of factors, f32 `[N, Q]`."""
    return jnp.einsum(
        "ns,qs->nq",
        row_NxS,
        other_QxS,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def mix(row_NxC: jax.Array) -> jax.Array:
    """Rotates rows to spread their norm over the dimensions.

    Each row's scale is set by its largest entry, which the rotation reduces if
    it is far above the others. Dimensions are permuted at random and divided
    into blocks; a Hadamard matrix is applied to each. All its entries are the
    same power of two, up to the sign, so only the sums are rounded: see
    `MIXING`.
    """
    width = row_NxC.shape[1]
    size = max(n for n in (1, 4, 16, _MIXED) if width % n == 0)
    rng = np.random.default_rng(0)
    order, sign = rng.permutation(width), rng.choice([-1.0, 1.0], width)
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < size:
        hadamard = np.kron([[0.5, 0.5], [0.5, -0.5]], hadamard)
        hadamard = np.kron([[1.0, 1.0], [1.0, -1.0]], hadamard)
    signed_NxC = row_NxC * sign.astype(np.float32)[None, :]
    mixed_NxBxS = jnp.matmul(
        signed_NxC[:, order].reshape(len(row_NxC), -1, size),
        hadamard.astype(np.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    return mixed_NxBxS.reshape(row_NxC.shape)


def to_integers(
    row_NxC: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rounds rows to 8-bit integers.

    Returns:
      Integers int8 `[N, C]`, the scale of each row f32 `[N]`, and the distance
      of each row from the scaled integers f32 `[N]`.
    """
    scale_N = jnp.abs(row_NxC).max(1) / 127
    factor_NxC = row_NxC / jnp.maximum(scale_N, 1e-30)[:, None]
    integer_NxC = jnp.round(factor_NxC)
    moved_NxC = row_NxC - integer_NxC * scale_N[:, None]
    distance_N = jnp.sqrt(jnp.square(moved_NxC).sum(1))
    return integer_NxC.astype(jnp.int8), scale_N, distance_N
