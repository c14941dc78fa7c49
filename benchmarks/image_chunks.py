"""Times the quickstart's image encoder on images in chunks of several sizes.

    python -m benchmarks.image_chunks --chunks=0,32,16,8,4 --batch=128 \
        --rounds=5 --json=image_chunks.json

A pass is `forward`, or `forward+backward`: the gradient of the mean square of
the outputs with respect to the parameters that the quickstart trains. One
process times all sizes in rounds of one pass each. The table and the JSON give
images per second of the median pass, and the speedup over a whole batch (0).
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.table
from flax import linen as nn
from ml_collections import ConfigDict

from benchmarks import machine, printing
from mixer_jax.configs import quickstart
from mixer_jax.models import factory
from mixer_jax.models.towers import in_chunks
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import optimizer

FORWARD, BACKWARD = PASSES = ("forward", "forward+backward")
WARM_UP = 1
PART = "image_encoder"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.image_chunks",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--chunks", default="0,32,16,8,4", help="images per chunk; 0: all")
    add("--batch", type=int, default=128, help="images per batch")
    add("--rounds", type=int, default=5, help="passes per size")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    try:
        chunks = _numbers(given.chunks)
        for name in ("batch", "rounds"):
            if (value := getattr(given, name)) < 1:
                raise UserError(f"--{name} is {value}; it must be 1 or more.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config = quickstart.get_config().stage1
    rows = measure(config, chunks, given.batch, given.rounds)
    printing.show(table(rows), rows, 100, given.json)
    return 0


def _numbers(text: str) -> list[int]:
    """Returns the sizes of the chunks, 0 first."""
    try:
        numbers = {int(part) for part in text.split(",")}
    except ValueError:
        numbers = {-1}
    if min(numbers) < 0:
        raise UserError(
            f"--chunks is {text!r}; it must be whole numbers of 0 or more, "
            "separated by commas."
        )
    return sorted(numbers | {0})


def measure(
    config: ConfigDict, chunks: Sequence[int], batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Returns a row for each pass and size of a chunk."""
    side = config.data.image_size
    images = np.random.default_rng(0).integers(
        0, 256, (batch, side, side, 3), np.uint8
    )
    encoder, variables = factory.pretrained_image_encoder(
        config.model.image.name, side
    )
    rates = optimizer.multiples(
        {PART: variables["params"]}, config.optimizer.parts
    )
    rows = []
    for name in PASSES:
        passes = {
            chunk: functools.partial(
                make_pass(name, encoder, variables, rates, chunk), images
            )
            for chunk in chunks
        }
        times = _time(passes, rounds)
        whole = statistics.median(times[0])
        rows += [
            {
                "pass": name,
                "chunk": chunk,
                "images_per_s": batch / statistics.median(seconds),
                "speedup": whole / statistics.median(seconds),
                "batch": batch,
                "rounds": rounds,
                **machine.describe(jax.devices()[:1]),
            }
            for chunk, seconds in times.items()
        ]
    return rows


def make_pass(
    name: str,
    encoder: nn.Module,
    variables: Any,
    rates: dict[str, float],
    chunk: int,
) -> Callable[[np.ndarray], Any]:
    """Returns the compiled pass of `name` over images in chunks."""
    encode = nn.apply(
        lambda module, images: in_chunks(module, images, chunk, train=False),
        encoder,
    )
    if name == FORWARD:
        return functools.partial(jax.jit(encode), variables)
    trained, frozen = optimizer.split({PART: variables["params"]}, rates)

    def loss(trained: Any, frozen: Any, images: jax.Array) -> jax.Array:
        params = optimizer.merge(trained, frozen)[PART]
        outputs = encode({**variables, "params": params}, images)
        return jnp.square(outputs).mean()

    return functools.partial(jax.jit(jax.grad(loss)), trained, frozen)


def _time(
    passes: dict[int, Callable[[], Any]], rounds: int
) -> dict[int, list[float]]:
    """Returns the seconds of each pass, in rounds of one pass each."""
    times = {chunk: [] for chunk in passes}
    for index in range(-WARM_UP, rounds):
        for chunk, run in passes.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if index >= 0:
                times[chunk].append(time.perf_counter() - start)
    return times


def table(rows: list[dict[str, Any]]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(
        title=f"Batches of {rows[0]['batch']} images", box=rich.box.SIMPLE
    )
    shown.add_column("pass", no_wrap=True)
    for heading in ("chunk", "images per s", "speedup"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        rate, speedup = row["images_per_s"], row["speedup"]
        shown.add_row(
            row["pass"], str(row["chunk"]), f"{rate:,.1f}", f"{speedup:.2f}"
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
