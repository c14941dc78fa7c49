"""Measures the memory of the search service under bombs and large pictures.

    python -m benchmarks.serve_memory [--json=serve_memory.json]

The service runs in its own process, with the default options, an index of a few
items, and a model that embeds a picture as its mean color. Each row sends at
the same time:

- 16 small PNG files in one color, of 14,000 x 14,000 pixels, which exceed the
  limit, or of 7,000 x 7,000 pixels, which are just below it;
- a JPEG of 48 megapixels and a PNG of 24 megapixels.

The columns are the statuses of the answers, and the growth of the process's
peak memory next to the maximum that the service may use: its budget for
decoding, and 16 of the largest uploads.
"""

import argparse
import contextlib
import io
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import rich.box
import rich.table
from PIL import Image

from benchmarks import bad_pictures, bad_requests, machine, printing, serve
from benchmarks.bad_requests import Request
from mixer_jax.data.images import memory
from mixer_jax.service import opening, server
from mixer_jax.service.batches.generations import Generations
from mixer_jax.service.http.settings import DEFAULTS

BOMBS, SIDES = 16, (14_000, 7_000)
LIMIT = 6_000_000_000  # maximum bytes of the process, to protect this machine
_CHILD = "--serve"
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_memory",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    printing.add_json(parser)
    parser.add_argument(_CHILD, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve:
        _serve()
        return 0
    rows = measure()
    printing.show(table(rows), rows, 100, given.json)
    return 0


def budget() -> float:
    """Returns the maximum MB that the service may use for requests."""
    pixels = memory.BYTES_PER_PIXEL * DEFAULTS.max_pixels / 1e6
    return pixels + BOMBS * DEFAULTS.max_megabytes


def measure(sides: Sequence[int] = SIDES) -> list[Row]:
    """Returns a row per size of the bombs."""
    large = [_jpeg(), _png()]
    rows = []
    with _served() as (address, process):
        before = _resident(process, "VmRSS")
        for side in sides:
            bombs = [bad_pictures.one_color(side)] * BOMBS
            _clear_peak(process)
            found = _send(address, [*bombs, *large])
            rows.append(
                {
                    "side": side,
                    "bomb_kb": len(bombs[0]) / 1e3,
                    "bombs": sorted(set(found[:BOMBS])),
                    "jpeg": found[-2],
                    "png": found[-1],
                    "before_mb": before,
                    "growth_mb": _resident(process, "VmHWM") - before,
                    "budget_mb": budget(),
                }
            )
    return [row | machine.describe(jax.devices()) for row in rows]


def _send(address: tuple[str, int], pictures: Sequence[bytes]) -> list[int]:
    """Returns the status of each picture; all are sent at once."""

    def ask(picture: bytes) -> int:
        request = Request("POST", "/v1/search", picture, {})
        return bad_requests.ask(address, request)[0]

    with ThreadPoolExecutor(len(pictures)) as pool:
        return list(pool.map(ask, pictures))


def _blocks(size: tuple[int, int]) -> Image.Image:
    colors = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)


def _jpeg() -> bytes:
    file = io.BytesIO()
    _blocks((8000, 6000)).save(file, "jpeg")
    return file.getvalue()


def _png() -> bytes:
    file = io.BytesIO()
    _blocks((6000, 4000)).save(file, "png", compress_level=1)
    return file.getvalue()


@contextlib.contextmanager
def _served() -> Iterator[tuple[tuple[str, int], int]]:
    """Yields the address and the process of the service."""
    command = [sys.executable, "-m", "benchmarks.serve_memory", _CHILD]
    folder = pathlib.Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder) as child:
        try:
            port = int(child.stdout.readline())
            yield ("127.0.0.1", port), child.pid
        finally:
            child.kill()


def _serve() -> None:
    """Runs the service, as `mixer_jax.serve` does; prints its port."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    memory.allow(DEFAULTS.max_pixels / 1e6, "--max-megapixels")
    memory.return_freed_blocks()
    model = bad_requests.make_model()
    with tempfile.TemporaryDirectory() as folder:
        serve.fill(pathlib.Path(folder) / "index", model, bad_requests.ITEMS)

        def open_(_: Any) -> Any:
            return opening.open_with(pathlib.Path(folder) / "index", model)

        with (
            Generations(open_, DEFAULTS.max_pixels) as generations,
            server.listen("127.0.0.1", 0) as listener,
        ):
            print(listener.getsockname()[1], flush=True)
            server.run(server.make_app(generations), listener)


def _resident(process: int, name: str) -> float:
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024 / 1e6


def _clear_peak(process: int) -> None:
    pathlib.Path(f"/proc/{process}/clear_refs").write_text("5")


def table(rows: Sequence[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(box=rich.box.SIMPLE)
    names = list(rows[0])[: -len(machine.describe(jax.devices()))]
    for name in names:
        shown.add_column(name, justify="right")
    for row in rows:
        cells = [row[name] for name in names]
        shown.add_row(
            *(f"{c:,.0f}" if isinstance(c, float) else f"{c}" for c in cells)
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
