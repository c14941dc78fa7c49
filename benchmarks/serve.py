"""Measures the search service under increasing load, and without HTTP.

    python -m benchmarks.serve --items=100000 --seconds=5 --json=serve.json \
        [--minutes=30]

The server runs in this process, and the clients run in another. They search
with photo-like JPEG pictures, which the server encodes with the quickstart's
encoder and random weights. The rows are:

    bare N     decoding, embedding and searching in batches of N, without HTTP
    clients N  N clients, each sending one search after another
    rate R     R searches per second, whether or not earlier ones are answered;
               first 1.5 times the best rate above, and the rate answered then
               is the capacity; then 0.8 and 3 times the capacity
    minute N   with --minutes, 0.8 times the capacity, minute by minute

Each row gives searches per second, searches per CPU second of this process, and
the median and 99th percentile of the response time; for refused searches, it
gives their number and the same percentiles. Any other answer ends the run. The
rows of minutes also give the memory of this process; the exit code is 1 if its
mean over the last tenth of them is more than 5% above that over the first.
"""

import argparse
import contextlib
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import rich.box
import rich.table
from PIL import Image

from benchmarks import machine, printing
from mixer_jax.configs import quickstart
from mixer_jax.models import factory
from mixer_jax.retrieval.model import Model
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import opening, server
from mixer_jax.service.batches.encoder import SIZE, Query
from mixer_jax.service.batches.generations import Generation, Generations
from mixer_jax.service.http import connections
from mixer_jax.service.http.settings import DEFAULTS, Settings
from mixer_jax.training.checkpoint.checkpoints import Trained

CLIENTS = (1, 2, 4, 8, 16, 32)
THREADS = 2  # decoding threads without the server
PICTURES, SIDE = 64, 640
K = 12
MINUTE = 60.0  # seconds
MAX_GROWTH = 0.05  # relative to the initial memory
_TOO_MUCH = 1.5  # of the best rate: more than can be answered
_SHOWN = ("_s", "_ms", "_mb")  # suffixes of the values shown
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--items", type=int, default=100_000, help="items of the index")
    add("--seconds", type=float, default=5, help="seconds per row")
    add("--minutes", type=int, default=0, help="minutes at 0.8 of the capacity")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    try:
        if given.items < 1 or given.seconds <= 0 or given.minutes < 0:
            raise UserError(
                "--items and --seconds must be positive, and --minutes not "
                "negative."
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = measure(given.items, given.seconds, given.minutes)
    printing.show(table(rows), rows, 100, given.json)
    grown = growth(rows)
    if given.minutes:
        print(f"Memory grew by {100 * grown:.1f}% during the steady load.")
    return int(grown > MAX_GROWTH)


def measure(
    items: int, seconds: float, minutes: int = 0, model: Model | None = None
) -> list[Row]:
    """Returns the rows of a model, by default the quickstart's."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        draw(folder / "pictures")
        model = model or make_model()
        fill(folder / "index", model, items)

        def open_(_: Model | None) -> Any:
            return opening.open_with(folder / "index", model)

        with Generations(open_, 50_000_000) as generations:
            rows = bare(generations.current, folder / "pictures", seconds)
            with serving(generations) as address:
                measured = loads(address, folder / "pictures", seconds)
                rate = next(r["rate"] for r in measured if r.get("rate"))
                rows += measured
                rows += steady(address, folder / "pictures", rate, minutes)
    described = machine.describe(jax.devices())
    return [row | {"items": items} | described for row in rows]


def make_model() -> Model:
    """Returns the quickstart's model, with random weights."""
    config = quickstart.get_config().stage1
    net = factory.make_model(config.model)
    variables = jax.jit(lambda key: factory.init_variables(net, config, key))(
        jax.random.key(0)
    )
    # Pretrained encoders are all zeros until loaded; randomize them.
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    leaves = [x + rng.normal(0, 0.02, x.shape).astype(x.dtype) for x in leaves]
    return Model(Trained(config, net, jax.tree.unflatten(tree, leaves), [], 0))


def draw(folder: pathlib.Path) -> None:
    """Writes JPEG pictures with the smoothness of photos."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
        image = Image.fromarray(pixels).resize((SIDE, SIDE * 3 // 4))
        image.save(folder / f"{number:03}.jpg", quality=85)


def fill(folder: pathlib.Path, model: Model, items: int) -> None:
    """Builds an index of random vectors."""
    vectors = np.random.default_rng(1).normal(size=(items, model.dim))
    with opening.open_index(folder, model, thumbnails=0) as index:
        index.upsert(
            [f"item {number}" for number in range(items)],
            vectors=vectors.astype(np.float32),
            texts=["a text of some words"] * items,
        )


def bare(
    generation: Generation, folder: pathlib.Path, seconds: float
) -> list[Row]:
    """Measures searches without the server, in batches and one by one."""
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    rows = []
    with ThreadPoolExecutor(THREADS) as pool:
        for size in (SIZE, 1):

            def work(start: int, size: int = size) -> None:
                places = range(start, start + size)
                part = [contents[i % len(contents)] for i in places]
                pixels = pool.map(generation.encoder.decode, part)
                queries = [Query(one) for one in pixels]
                vectors = generation.encoder.embed(queries)
                generation.index.store.search(vectors, K)

            work(0)
            begin, cpu, times = time.perf_counter(), time.process_time(), []
            while time.perf_counter() - begin < seconds:
                start = time.perf_counter()
                work(len(times) * size)
                times.append(time.perf_counter() - start)
            answers = [(200, one) for one in times for _ in range(size)]
            rows.append(
                summarize(
                    f"bare {size}",
                    answers,
                    time.perf_counter() - begin,
                    time.process_time() - cpu,
                )
            )
    return rows


@contextlib.contextmanager
def serving(
    generations: Generations, settings: Settings = DEFAULTS
) -> Iterator[tuple[str, int]]:
    """Runs the server in a thread; yields its address."""
    made: list[connections.Server] = []

    class Server(connections.Server):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            made.append(self)

    original, connections.Server = connections.Server, Server
    with server.listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        app = server.make_app(generations, settings)
        thread = threading.Thread(target=server.run, args=(app, listener))
        thread.start()
        try:
            yield address
        finally:
            connections.Server = original
            while not made:
                time.sleep(0.01)
            made[0].should_exit = True
            thread.join()


def loads(
    address: tuple[str, int], folder: pathlib.Path, seconds: float
) -> list[Row]:
    """Measures the server with an increasing load, up to overload."""
    rows = []
    for count in CLIENTS:
        option = f"--clients={count}"
        rows.append(load(address, folder, f"clients {count}", option, seconds))
    best = max(row["per_s"] for row in rows)

    def at(rate: float) -> Row:
        name, option = f"rate {rate:.0f}", f"--rate={rate}"
        return load(address, folder, name, option, seconds)

    # Not the best rate: clients that wait for answers send batches, which take
    # less work than searches that arrive one by one.
    rows.append(at(_TOO_MUCH * best))
    capacity = rows[-1]["per_s"]
    for factor in (0.8, 3):
        rate = factor * capacity
        rows.append(at(rate) | {"factor": factor, "rate": rate})
    return rows


def steady(
    address: tuple[str, int], folder: pathlib.Path, rate: float, minutes: int
) -> list[Row]:
    """Measures the server and its memory at a fixed rate, minute by minute."""
    rows = []
    for number in range(1, minutes + 1):
        name = f"minute {number}"
        row = load(address, folder, name, f"--rate={rate}", MINUTE)
        rows.append(row | {"resident_mb": resident()})
    return rows


def resident() -> float:
    """Returns the memory of this process, in MB."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize() / 1e6


def growth(rows: Sequence[Row]) -> float:
    """Returns the growth of the memory, relative to its initial size.

    Compares the means over the first and the last tenth of the minutes.
    """
    sizes = [row["resident_mb"] for row in rows if row.get("resident_mb")]
    tenth = -(-len(sizes) // 10)
    if not sizes:
        return 0.0
    return float(np.mean(sizes[-tenth:]) / np.mean(sizes[:tenth]) - 1)


def load(
    address: tuple[str, int],
    folder: pathlib.Path,
    name: str,
    option: str,
    seconds: float,
) -> Row:
    """Measures the server while another process sends searches."""
    command = [sys.executable, "-m", "benchmarks.serve_load"]
    command += [*map(str, address), str(folder), option]
    command.append(f"--seconds={seconds}")
    cpu = time.process_time()
    # The clients' errors go to standard error.
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True
    )
    cpu = time.process_time() - cpu
    return summarize(name, json.loads(done.stdout), seconds, cpu)


def summarize(
    name: str, answers: Sequence[tuple[int, float]], wall: float, cpu: float
) -> Row:
    """Returns a row; times are in milliseconds."""
    times = [1000 * one for status, one in answers if status == 200]
    refused = [1000 * one for status, one in answers if status == 503]
    wrong = {status for status, _ in answers} - {200, 503}
    if wrong:
        raise RuntimeError(f"The server answered with {wrong}.")
    print(f"measured {name}", file=sys.stderr, flush=True)
    return {
        "load": name,
        "per_s": len(times) / wall,
        "per_cpu_s": len(times) / cpu,
        "p50_ms": _percentile(times, 50),
        "p99_ms": _percentile(times, 99),
        "refused": len(refused),
        "refused_p50_ms": _percentile(refused, 50),
        "refused_p99_ms": _percentile(refused, 99),
    }


def _percentile(times: Sequence[float], share: float) -> float | None:
    return float(np.percentile(times, share)) if times else None


def table(rows: Sequence[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(box=rich.box.SIMPLE)
    shown.add_column("load")
    names = [name for name in rows[-1] if name.endswith((*_SHOWN, "refused"))]
    for name in names:
        shown.add_column(name, justify="right")
    for row in rows:
        cells = [_cell(row.get(name)) for name in names]
        shown.add_row(row["load"], *cells)
    return shown


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
