"""Measured limits of the machine: matrix products and memory traffic."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.runtime import mesh as meshes

# Side of the square matrices, and size in MiB of the copied array over all
# devices: far larger than any cache, but measured in a second or two.
SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
MIB = {"cpu": 512, "gpu": 4096, "tpu": 2048}
REPEATS = 8


def measure(mesh: Mesh) -> dict[str, float]:
    """Measures the limits of all devices of the mesh together.

    Each device multiplies its own square matrices at the default precision, in
    f32 (on recent GPUs, with TF32 factors) and bf16. Both accumulate and
    return f32, because CPUs are half as fast with bf16 results. Traffic is the
    bytes read plus the bytes written, by a copy into another array and by an
    in-place update, as in an optimizer. The latter is faster on CPUs, which
    read a cache line before they write to it.

    Returns:
      `f32_flops_per_s`, `bf16_flops_per_s`, `copy_bytes_per_s`,
      `in_place_bytes_per_s`, and `bytes_per_s`, the higher of the last two.
    """
    platform = mesh.devices.flat[0].platform
    side = round(SIDE[platform] / mesh.size ** (1 / 3))
    rates = {}
    for name, dtype in (("f32", jnp.float32), ("bf16", jnp.bfloat16)):
        x = _ones((mesh.size, side, side), dtype, mesh)
        out = _ones((mesh.size, side, side), jnp.float32, mesh)
        product = jax.jit(
            lambda out, x: jnp.matmul(x, x, preferred_element_type=out.dtype),
            donate_argnums=0,
            keep_unused=True,
        )
        flops = 2 * mesh.size * side**3
        rates[f"{name}_flops_per_s"] = flops / _best(product, out, x)
    rows = MIB[platform] * 2**20 // 4 // 1024 // mesh.size * mesh.size
    x = _ones((rows, 1024), jnp.float32, mesh)
    out = _ones((rows, 1024), jnp.float32, mesh)
    # The factor 2 is needed: a plain copy may use only one device or thread.
    copy = jax.jit(lambda out, x: 2 * x, donate_argnums=0, keep_unused=True)
    rates["copy_bytes_per_s"] = 2 * x.nbytes / _best(copy, out, x)
    moved = 2 * x.nbytes
    del out
    in_place = jax.jit(lambda x: 2 * x, donate_argnums=0)
    rates["in_place_bytes_per_s"] = moved / _best(in_place, x)
    rates["bytes_per_s"] = max(
        rates["copy_bytes_per_s"], rates["in_place_bytes_per_s"]
    )
    return rates


def _ones(shape, dtype, mesh):
    make = jax.jit(
        lambda: jnp.ones(shape, dtype), out_shardings=meshes.rows(mesh)
    )
    return make()


def _best(step: Callable, out: jax.Array, *given: jax.Array) -> float:
    """Returns the seconds of the fastest call.

    Each call is given the previous result to reuse, so that no call has to
    allocate untouched memory.
    """
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        out = jax.block_until_ready(step(out, *given))
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
