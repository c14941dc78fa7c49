"""Times our convolutions against XLA's.

    python -m benchmarks.convolutions --size=128 --batch=32 --rounds=9 \
        --json=convolutions.json

Measures each shape of the depthwise layers of EfficientNet-Lite0 and of the 3x3
and 7x7 layers of ResNet-50 once, for images of --size pixels, in f32, forward
and forward+backward (gradients of the feature map and the kernel). One process
times both sides in rounds of one pass each. The table and the JSON give the
milliseconds of the median pass and our speedup; the last row of each kind and
pass is the sum over its layers. On accelerators, our convolutions call XLA's.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import rich.box
import rich.console
import rich.table
from jax import lax

from benchmarks import machine, printing
from mixer_jax.models.kernels.convolutions import convolve, depthwise

FORWARD, BACKWARD = PASSES = ("forward", "forward+backward")
DEPTHWISE, DENSE = KINDS = ("depthwise", "dense")
MIN_SIZE = 32  # pixels per side; the last feature maps then have one cell
WARM_UP = 1


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution, with "SAME" padding or `kernel // 2` on each side.

    Attributes:
      kind: one of `KINDS`.
      scale: image pixels per cell of the input feature map, along an axis.
      channels: number of input channels.
      features: number of output channels.
      kernel: side of the kernel.
      stride: the stride along both axes.
    """

    kind: str
    scale: int
    channels: int
    features: int
    kernel: int
    stride: int

    def name(self, size: int) -> str:
        """Returns a description at `size` pixels: "32x32x64 -> 64, 3x3/1"."""
        side = size // self.scale
        return (
            f"{side}x{side}x{self.channels} -> {self.features}, "
            f"{self.kernel}x{self.kernel}/{self.stride}"
        )


LAYERS = tuple(
    Layer(DEPTHWISE, scale, channels, channels, kernel, stride)
    for scale, channels, kernel, stride in (
        (2, 32, 3, 1),
        (2, 96, 3, 2),
        (4, 144, 3, 1),
        (4, 144, 5, 2),
        (8, 240, 5, 1),
        (8, 240, 3, 2),
        (16, 480, 3, 1),
        (16, 480, 5, 1),
        (16, 672, 5, 1),
        (16, 672, 5, 2),
        (32, 1152, 5, 1),
        (32, 1152, 3, 1),
    )
) + tuple(
    Layer(DENSE, *sizes)
    for sizes in (
        (1, 3, 64, 7, 2),
        (4, 64, 64, 3, 1),
        (4, 128, 128, 3, 2),
        (8, 128, 128, 3, 1),
        (8, 256, 256, 3, 2),
        (16, 256, 256, 3, 1),
        (16, 512, 512, 3, 2),
        (32, 512, 512, 3, 1),
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convolutions",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--size", type=int, default=128, help="side of an image in pixels")
    add("--batch", type=int, default=32, help="images per batch")
    add("--rounds", type=int, default=9, help="passes per side")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    for name, minimum in (("size", MIN_SIZE), ("batch", 1), ("rounds", 1)):
        if (value := getattr(given, name)) < minimum:
            print(
                f"error: --{name} is {value}; it must be {minimum} or more.",
                file=sys.stderr,
            )
            return 2
    rows = measure(LAYERS, given.size, given.batch, given.rounds)
    printing.show(table(rows), rows, 100, given.json)
    return 0


def measure(
    chosen: Sequence[Layer], size: int, batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Measures layers; returns the table's rows, including sums."""
    described = machine.describe(jax.devices()[:1])
    common = {"size": size, "batch": batch, "rounds": rounds, **described}
    rows = []
    for kind in dict.fromkeys(layer.kind for layer in chosen):
        here = [layer for layer in chosen if layer.kind == kind]
        for name in PASSES:
            times = [_time(one, name, size, batch, rounds) for one in here]
            names = [layer.name(size) for layer in here]
            sums = tuple(map(sum, zip(*times, strict=True)))
            for label, (ours, native) in zip(
                [*names, "all"], [*times, sums], strict=True
            ):
                rows.append(
                    {
                        "kind": kind,
                        "pass": name,
                        "layer": label,
                        "ours_ms": 1e3 * ours,
                        "native_ms": 1e3 * native,
                        "ratio": native / ours,
                        **common,
                    }
                )
    return rows


def sides(layer: Layer, name: str) -> dict[str, Callable]:
    """Returns our and XLA's functions of `(map, kernel, gradient)`."""
    if layer.kind == DEPTHWISE:
        ours = partial(depthwise, stride=layer.stride)
        padding, groups = "SAME", layer.channels
    else:
        pixels = layer.kernel // 2
        ours = partial(convolve, stride=layer.stride, padding=layer.kernel // 2)
        padding, groups = ((pixels, pixels),) * 2, 1
    native = partial(
        lax.conv_general_dilated,
        window_strides=(layer.stride, layer.stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )

    def passes(one):
        def both(x, kernel, gradient):
            out, pull = jax.vjp(one, x, kernel)
            return out, *pull(gradient)

        def forward(x, kernel, gradient):
            del gradient
            return (one(x, kernel),)

        return forward if name == FORWARD else both

    return {"ours": passes(ours), "native": passes(native)}


def inputs(layer: Layer, size: int, batch: int) -> tuple[jax.Array, ...]:
    """Returns a random feature map, kernel and gradient of the output."""
    keys = jax.random.split(jax.random.key(0), 3)
    side = size // layer.scale
    into = 1 if layer.kind == DEPTHWISE else layer.channels
    out = -(-side // layer.stride)
    return tuple(
        jax.random.normal(key, shape)
        for key, shape in zip(
            keys,
            (
                (batch, side, side, layer.channels),
                (layer.kernel, layer.kernel, into, layer.features),
                (batch, out, out, layer.features),
            ),
            strict=True,
        )
    )


def _time(
    layer: Layer, name: str, size: int, batch: int, rounds: int
) -> tuple[float, float]:
    """Returns the median seconds of our and XLA's passes, run alternately."""
    given = inputs(layer, size, batch)
    both = {side: jax.jit(run) for side, run in sides(layer, name).items()}
    seconds = {side: [] for side in both}
    for index in range(-WARM_UP, rounds):
        for side, run in both.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*given))
            if index >= 0:
                seconds[side].append(time.perf_counter() - start)
    return tuple(statistics.median(s) for s in seconds.values())


def table(rows: list[dict[str, Any]]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(
        title=f"Batch {rows[0]['batch']}, {rows[0]['size']} pixels",
        box=rich.box.SIMPLE,
    )
    for heading in ("kind", "pass", "layer"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("ours ms", "XLA's ms", "times faster"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row["kind"],
            row["pass"],
            row["layer"],
            *(f"{row[key]:.2f}" for key in ("ours_ms", "native_ms", "ratio")),
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
