"""Measures the size of an index in a folder, and the cost of its searches.

    python -m benchmarks.index_size --items=100000,1000000 --storage=f32,int8

An item has one random embedding, an ID and a text of 40 letters. Each row is
one index, searched in its own process:

    disk_bytes   bytes per item in the index's folder
    load_s       CPU seconds until the first search has been answered
    memory_bytes bytes per item of the process's peak memory while it loads and
                 searches, beyond that for an index of one item, and without
                 pages of the index's file, which the system can drop
    query_ms     CPU time of a search for one embedding, k = 12
    batch_ms     the same per query, for eight queries at once, as in the
                 service

Times are medians of the CPU time of all threads, which other load on the
machine affects less than wall time.
"""

import argparse
import contextlib
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np
import rich.box
import rich.table

from benchmarks import machine, printing
from mixer_jax.runtime import numbers
from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError
from mixer_jax.service.batches.encoder import SIZE
from mixer_jax.service.stores import encoding
from mixer_jax.service.stores.interface import Item, Vector
from mixer_jax.service.stores.local import LocalStore

K, TIMES, WRITTEN = 12, 21, 10_000  # WRITTEN: items per transaction
_POLL = 0.01  # seconds between readings of the memory
COLUMNS = ("disk_bytes", "load_s", "memory_bytes", "query_ms", "batch_ms")
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index_size",
        description=__doc__.split("\n")[0],
    )
    add = parser.add_argument
    add("--items", default="100000", help="sizes, comma-separated")
    add("--storage", default="f32", help="storages, comma-separated")
    add("--dim", type=numbers.whole(1, 4096), default=256, help="dimensions")
    printing.add_json(parser)
    given = parser.parse_args(arguments)
    try:
        sizes, storages = _read(given.items, given.storage)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [measure(n, s, given.dim) for n in sizes for s in storages]
    printing.show(table(rows), rows, 100, given.json)
    return 0


def _read(items: str, storage: str) -> tuple[list[int], list[str]]:
    sizes, storages = items.split(","), storage.split(",")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise UserError(
            f"--items={items} must be positive numbers, separated by commas."
        )
    if not set(storages) <= encoding.STORAGES.keys():
        raise UserError(
            f"--storage={storage} must be of {', '.join(encoding.STORAGES)}, "
            "separated by commas."
        )
    return [int(size) for size in sizes], storages


def measure(items: int, storage: str, dim: int) -> Row:
    """Builds an index, and measures it in another process."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        fill(folder, items, storage, dim)
        used = sum(path.stat().st_size for path in folder.iterdir())
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn) as process:
            found = process.submit(search, folder, dim).result()
    print(f"measured {items} items as {storage}", file=sys.stderr, flush=True)
    row = {"items": items, "storage": storage, "dim": dim}
    row |= {"disk_bytes": used / items} | found
    row["memory_bytes"] = row.pop("memory") / items
    return row | machine.describe(jax.devices())


def fill(folder: pathlib.Path, items: int, storage: str, dim: int) -> None:
    """Builds an index of random vectors."""
    properties = {
        "dim": dim,
        "fingerprint": "",
        "storage": storage,
        "thumbnails": 0,
        "fields": {},
    }
    rng = np.random.default_rng(0)
    with LocalStore.draft(folder, properties) as made:
        for start in range(0, items, WRITTEN):
            count = min(WRITTEN, items - start)
            rows = normalize(rng.standard_normal((count, dim), np.float32))
            made.upsert(
                [_item(start + place, row) for place, row in enumerate(rows)]
            )
        made.publish()


def _item(number: int, row: np.ndarray) -> Item:
    vector = Vector(encoding.content(f"{number}"), row)
    return Item(f"item {number:09}", (vector,), f"{number:09} words".ljust(40))


def search(folder: pathlib.Path, dim: int) -> Row:
    """Searches a small index, then the given one, in the measured process."""
    small = folder / "small"
    fill(small, 1, "f32", dim)
    with LocalStore.open(small) as store:
        store.search(np.ones((1, dim), np.float32), K)
    with _watched() as sizes:
        found = _search(folder, dim)
    return found | {"memory": max(sizes) - sizes[0]}


@contextlib.contextmanager
def _watched() -> Iterator[list[int]]:
    """Yields a growing list of readings of this process's anonymous memory."""
    sizes, ended = [_anonymous()], threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL):
            sizes.append(_anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def _anonymous() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = [x for x in status.splitlines() if x.startswith("RssAnon")]
    return int(line.split()[1]) << 10


def _search(folder: pathlib.Path, dim: int) -> Row:
    rng = np.random.default_rng(1)
    queries = normalize(rng.standard_normal((SIZE, dim), np.float32))
    begin = time.process_time()
    with LocalStore.open(folder) as store:
        store.search(queries[:1], K)
        load = time.process_time() - begin
        times: dict[int, list[float]] = {1: [], SIZE: []}
        for _ in range(TIMES):
            for size, measured in times.items():
                begin = time.process_time()
                store.search(queries[:size], K)
                measured.append((time.process_time() - begin) / size)
    one, many = (1000 * statistics.median(times[size]) for size in times)
    return {"load_s": load, "query_ms": one, "batch_ms": many}


def table(rows: Sequence[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(box=rich.box.SIMPLE)
    for name in ("items", "storage", *COLUMNS):
        shown.add_column(name, justify="right")
    for row in rows:
        cells = [f"{row[name]:,.4g}" for name in COLUMNS]
        shown.add_row(f"{row['items']:,}", row["storage"], *cells)
    return shown


if __name__ == "__main__":
    sys.exit(main())
