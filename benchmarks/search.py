"""Measures exact search against faiss and usearch.

    pip install --target=runs/peers faiss-cpu usearch
    PYTHONPATH=runs/peers python -m benchmarks.search \
        --documents=100000,1000000 --json=rows.json

Rows are random unit vectors (`isotropic`, the worst case for bounds) and, with
--features, real embeddings: those of the file, reduced to --dim principal
dimensions and repeated with noise. Queries are additional rows of the same
kind. faiss's IndexFlatIP, which is also exact, uses one thread per core of this
process. The engines take turns; each row gives the median time, and the minimum
CPU time, which is less affected by other load on the machine. `ratio_to_faiss`
is faiss's time divided by the engine's. `share_of_peak` is the time to read all
rows once in f32, or to multiply them by the queries in f32, at the machine's
measured limits, divided by the engine's time; narrower dtypes allow shares
above 1. `recall` is the share of faiss's results found. `peak_mb` is the memory
needed by the rows and searches of `mixer_jax`, measured before the other
engines start.
"""

import argparse
import functools
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import rich.box
import rich.table

from benchmarks import ceilings, machine, memory, printing
from mixer_jax.runtime import arrays
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.search.rows import Rows

Row = dict[str, Any]
Search = Callable[[np.ndarray, int], np.ndarray]
COLUMNS = (
    *("engine", "data", "documents", "dim", "queries", "k", "ms"),
    "cpu_ms",
    *("ratio_to_faiss", "peak_mb", "recall", "share_of_peak"),
)
_CHUNK = 4096  # rows generated at once; few, as they count toward `peak_mb`
_NOISE = 0.3  # norm of the noise added to real embeddings
_INSTALL = (
    "install the reference engines, as in `pip install "
    "--target=runs/peers faiss-cpu usearch`, and set PYTHONPATH=runs/peers."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = _parser().parse_args(arguments)
    rows = []
    try:
        for row in measure(given):
            rows.append(row)
            # Write after each row, because large sizes are slow.
            if given.json:
                printing.write(rows, given.json)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    printing.show(table(rows), rows, 120, given.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=__doc__.split("\n")[0],
    )
    add = parser.add_argument
    add("--documents", default="100000", help="sizes, comma-separated")
    add("--dim", type=int, default=256, help="dimensions")
    add("--queries", default="1,256", help="batch sizes, comma-separated")
    add("--k", default="10,100", help="results per query, comma-separated")
    add("--features", default="", help="features.npz, written by categorize")
    add("--rounds", type=int, default=5, help="searches of each kind")
    add("--hnsw", type=int, default=0, help="maximum size for usearch's HNSW")
    printing.add_json(parser)
    return parser


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Yields the measurements of the command line, one row each.

    Raises:
      UserError: if faiss is not installed or an argument is invalid.
    """
    faiss = _load("faiss")
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    sizes, batches, ks = (
        _numbers(getattr(given, name), name)
        for name in ("documents", "queries", "k")
    )
    limits = ceilings.measure(make_mesh())
    kinds = {"isotropic": functools.partial(_isotropic, given.dim)}
    if given.features:
        kinds["real"] = _real(given.features, given.dim)
    for count in sizes:
        for name, draw in kinds.items():
            known = {"data": name, "documents": count, "dim": given.dim}
            queries = draw(max(batches), np.random.default_rng(1))
            engines, peak = _engines(given, faiss, count, draw, queries)
            for batch in batches:
                for k in ks:
                    timed = _alternate(engines, queries[:batch], k, given)
                    yield from _rows(timed, known, batch, k, peak, limits)


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is missing; {_INSTALL}") from error


def _numbers(text: str, name: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(
            f"--{name}={text} must be positive numbers, separated by commas."
        )
    return [int(part) for part in parts]


def _isotropic(dim: int, count: int, rng: np.random.Generator) -> np.ndarray:
    return arrays.normalize(rng.standard_normal((count, dim), np.float32))


def _real(path: str, dim: int) -> Callable[..., np.ndarray]:
    """Returns a function that draws from the embeddings of a file."""
    try:
        with np.load(path) as file:
            known = file["image"]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"--features={path} is not a features.npz from categorize: {error}"
        ) from error
    if known.shape[1] < dim:
        raise UserError(
            f"--features={path}: the embeddings have {known.shape[1]} "
            f"dimensions, but --dim is {dim}."
        )
    known = arrays.normalize(known - known.mean(0))
    _, axes = np.linalg.eigh(known.T @ known)
    known = arrays.normalize(known @ axes[:, ::-1][:, :dim])
    spread = known.std(0)

    def draw(count: int, rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal((count, dim), np.float32) * spread
        chosen = known[rng.integers(len(known), size=count)]
        return arrays.normalize(chosen + _NOISE * noise)

    return draw


def _engines(
    given: argparse.Namespace,
    faiss: Any,
    count: int,
    draw: Callable[..., np.ndarray],
    queries: np.ndarray,
) -> tuple[dict[str, Search], float]:
    """Fills the engines; returns them, and the peak memory of the first."""

    def chunks() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for start in range(0, count, _CHUNK):
            yield draw(min(_CHUNK, count - start), rng)

    before = memory.resident(peak=False)
    rows = Rows(given.dim, capacity=count)
    for chunk in chunks():
        rows.append(chunk)
    for batch in _numbers(given.queries, "queries"):
        for k in _numbers(given.k, "k"):
            rows.search(queries[:batch], k)
    peak = (memory.resident(peak=True) - before) / 1e6
    flat = faiss.IndexFlatIP(given.dim)
    for chunk in chunks():
        flat.add(chunk)
    engines = {
        "faiss": lambda queries, k: flat.search(queries, k)[1],
        "mixer_jax": lambda queries, k: rows.search(queries, k)[0],
    }
    if count <= given.hnsw:
        engines["usearch"] = _hnsw(given.dim, chunks())
    return engines, peak


def _hnsw(dim: int, chunks: Iterator[np.ndarray]) -> Search:
    """Returns the search of an approximate index, for reference."""
    index = _load("usearch.index").Index(ndim=dim, metric="ip", dtype="f32")
    start = 0
    for chunk in chunks:
        index.add(np.arange(start, start + len(chunk)), chunk)
        start += len(chunk)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return index.search(queries, k).keys.reshape(len(queries), -1)

    return search


def _alternate(
    engines: dict[str, Search],
    queries: np.ndarray,
    k: int,
    given: argparse.Namespace,
) -> dict[str, tuple[np.ndarray, float, float]]:
    """Returns each engine's results, median time and minimum CPU time in ms."""
    found = {name: search(queries, k) for name, search in engines.items()}
    times, cpu = ({name: [] for name in engines} for _ in range(2))
    for _ in range(given.rounds):
        for name, search in engines.items():
            start, used = time.perf_counter(), time.process_time()
            search(queries, k)
            times[name].append(1e3 * (time.perf_counter() - start))
            cpu[name].append(1e3 * (time.process_time() - used))
    return {
        name: (found[name], statistics.median(times[name]), min(cpu[name]))
        for name in engines
    }


def _rows(
    timed: dict[str, tuple[np.ndarray, float, float]],
    known: Row,
    batch: int,
    k: int,
    peak: float,
    limits: dict[str, float],
) -> Iterator[Row]:
    size = known["documents"] * known["dim"]
    least_ms = 1e3 * max(
        2 * size * batch / limits["f32_flops_per_s"],
        4 * size / limits["bytes_per_s"],
    )
    exact, faiss_ms, _ = timed["faiss"]
    for name, (found, ms, cpu_ms) in timed.items():
        same = (found[:, :, None] == exact[:, None, :]).any(2)
        yield {
            "engine": name,
            **known,
            "queries": batch,
            "k": k,
            "ms": ms,
            "cpu_ms": cpu_ms,
            "ratio_to_faiss": faiss_ms / ms,
            "peak_mb": peak if name == "mixer_jax" else None,
            "recall": float(same.mean()),
            "share_of_peak": least_ms / ms,
            **machine.describe(jax.devices()),
        }


def table(rows: list[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    shown = rich.table.Table(*COLUMNS, box=rich.box.MARKDOWN)
    for row in rows:
        shown.add_row(
            *(row["engine"], row["data"], f"{row['documents']:,}"),
            *(str(row[name]) for name in ("dim", "queries", "k")),
            f"{row['ms']:.1f}",
            f"{row['cpu_ms']:.1f}",
            f"{row['ratio_to_faiss']:.2f}",
            "" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}",
            f"{row['recall']:.4f}",
            f"{row['share_of_peak']:.2f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
