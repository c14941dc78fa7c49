"""Measures preparing, opening and reading a table as it grows.

    python -m benchmarks.data_scale --samples=1000,100000 --json=data_scale.json
    python -m benchmarks.data_scale --samples=10000000 --inline --workers=2

Draws small JPEG files, texts and categories with Zipf frequencies from a seed.
With `--inline`, the images are one-pixel PNGs in a column of the table instead,
so that decoding takes little of the time.
For each number of workers, prepares the table from scratch; the ratio's
baseline only decodes the same files, in the same number of processes.
With the last number of workers, changes 1% of the rows in one place, appends
1%, and changes 1% at random, and prepares each of these tables again.
Then starts training, resumes it from the middle of an epoch (both up to the
first batch, in a new process), reads batches, and compares with PyTorch's
DataLoader. Each figure is measured once. PyTorch's loader is excluded if torch
is not installed.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rich.box
import rich.table
from PIL import Image

from benchmarks import data_start, machine, partial_fc_torch, printing
from mixer_jax.data.images import decoding
from mixer_jax.data.tables import table as table_lib
from mixer_jax.runtime import threads
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs

_CATEGORIES = 100  # fixed, so that memory depends only on the samples
_DISTINCT = 10_000  # number of distinct images; the other files are links
_SECONDS = 20  # of reading batches, per loader
_CHUNK = 64  # images per task of the bare loop
_ROWS = 100_000  # table rows per write
_CHANGES = ("contiguous", "appended", "scattered")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = _parser().parse_args(arguments)
    rows = []
    try:
        samples = _numbers("samples", given.samples, 4 * _CHUNK)
        workers = _numbers("workers", given.workers, 1)
        if given.side < 8:
            raise UserError(f"--side is {given.side}; it must be 8 or more.")
        for count in samples:
            side = 0 if given.inline else given.side
            rows += measure(count, workers, side, given.folder or None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    printing.show(table(rows), rows, 120, given.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_scale",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--samples", default="1000,100000", help="numbers of samples")
    add("--workers", default="1,2", help="numbers of processes")
    add("--side", type=int, default=64, help="side of the images in pixels")
    inline = "one-pixel images as bytes in the table, instead of files"
    add("--inline", action="store_true", help=inline)
    add("--folder", default="", help="parent of the temporary folder")
    printing.add_json(parser)
    return parser


def _numbers(name: str, text: str, smallest: int) -> list[int]:
    numbers = [int(x) if x.isdecimal() else 0 for x in text.split(",")]
    if min(numbers) < smallest:
        raise UserError(
            f"--{name}={text} must be numbers of {smallest} or more, separated "
            "by commas."
        )
    return numbers


def measure(
    count: int, workers: Sequence[int], side: int, parent: str | None
) -> list[Row]:
    """Measures tables of `count` samples; returns one row per worker count.

    Args:
      count: the number of samples.
      workers: the numbers of worker processes.
      side: the side of the images in pixels; 0 for images in the table.
      parent: the parent of the temporary folder; None for the default.
    """
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = pathlib.Path(name)
        path = write(folder, count, side)
        rates = {}
        for number in workers:
            shutil.rmtree(folder / "prepared", ignore_errors=True)
            plain = count / _bare(path, count, number)
            rates[number] = count / _prepare(path, number), plain
        changed = _changed(path, number, count / rates[number][0])
        start = _start(path)
        resume = _start(path, count // 4 // (data_start.BATCH // 2))
        rows = []
        for number, (rate, plain) in rates.items():
            ours = _read(_batches(path, number))
            theirs = None
            # Parquet files do not support random access to single rows.
            if side and partial_fc_torch.available():
                theirs = _read(_torch_batches(path, count, number))
            rows.append(
                {
                    "samples": count,
                    "workers": number,
                    "prepare_per_s": rate,
                    "ratio_to_bare": rate / plain,
                    **changed,
                    "open_s": start["seconds"],
                    "resume_s": resume["seconds"],
                    "host_mb": max(start["mb"], resume["mb"]),
                    "delivered_per_s": ours,
                    "ratio_to_dataloader": theirs and ours / theirs,
                    "side": side,
                    **machine.describe(jax.devices()[:1]),
                }
            )
    return rows


def write(folder: pathlib.Path, count: int, side: int) -> pathlib.Path:
    """Writes images and a table of half queries, half documents.

    Args:
      folder: the folder to write to.
      count: the number of samples.
      side: the side of the images in pixels, in files `0.jpg`, `1.jpg`, ...; 0
        for one-pixel images in the table.

    Returns:
      The path of the table.
    """
    rng = np.random.default_rng(0)
    distinct = [_draw(rng, side) for _ in range(min(count, _DISTINCT))]
    if side:
        for number, content in enumerate(distinct):
            (folder / f"{number}.jpg").write_bytes(content)
        for number in range(_DISTINCT, count):
            target = folder / f"{number % _DISTINCT}.jpg"
            os.link(target, folder / f"{number}.jpg")
    weights = 1 / np.arange(1, _CATEGORIES + 1)
    categories = rng.choice(_CATEGORIES, count, p=weights / weights.sum())
    # Each category needs two samples.
    categories[: 2 * _CATEGORIES] = np.repeat(np.arange(_CATEGORIES), 2)
    path = folder / "table.parquet"
    kinds = dict.fromkeys(table_lib.COLUMNS, pa.string())
    if not side:
        kinds["image"] = pa.binary()
    schema = pa.schema(kinds.items())
    # Write in parts, so that the table need not fit in memory.
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, _ROWS):
            numbers = np.arange(start, min(start + _ROWS, count))
            images = [f"{number}.jpg" for number in numbers]
            if not side:
                images = [distinct[n % len(distinct)] for n in numbers]
            columns = _columns(numbers, categories[numbers])
            columns["image"] = images
            writer.write_table(pa.table(columns, schema))
    long_ago = time.time() - 3600  # Recently modified tables are reread.
    os.utime(path, (long_ago, long_ago))
    return path


def _draw(rng: np.random.Generator, side: int) -> bytes:
    """Returns a JPEG file; a PNG file of one pixel if `side` is 0."""
    shape = (8, 8, 3) if side else (1, 1, 3)
    image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
    content = io.BytesIO()
    if side:
        image = image.resize((side, side), Image.BICUBIC)
    image.save(content, "jpeg" if side else "png", quality=90)
    return content.getvalue()


def _columns(numbers: np.ndarray, categories: np.ndarray) -> dict[str, Any]:
    """Returns the columns of some samples, except for their images."""
    texts = (f"thing {n % 5000}" if n % 2 else "" for n in numbers)
    return {
        "sample_id": [f"s{n}" for n in numbers],
        "role": np.where(numbers % 2, "document", "query"),
        "text": list(texts),
        "category_id": [f"c{n}" for n in categories],
        "group": [""] * len(numbers),
        "split": ["train"] * len(numbers),
    }


def _names(path: pathlib.Path, count: int) -> Sequence[str]:
    """Returns the paths of all images of a table written by `write`."""
    if (path.parent / "0.jpg").exists():
        return [str(path.parent / f"{number}.jpg") for number in range(count)]
    images = table_lib.read_table(path)["image"]
    return [os.path.join(path.parent, name) for name in images]


def _decode(names: Sequence[str]) -> None:
    for name in names:
        decoding.check(name)


def _bare(path: pathlib.Path, count: int, workers: int) -> float:
    """Returns the seconds that processes need to decode all images once."""
    begin = time.perf_counter()
    names = _names(path, count)
    with threads.process_pool(workers) as pool:
        tasks = [
            pool.submit(_decode, names[start : start + _CHUNK])
            for start in range(0, count, _CHUNK)
        ]
        for task in tasks:
            task.result()
    return time.perf_counter() - begin


def _prepare(path: pathlib.Path, workers: int) -> float:
    """Returns how long preparing a table takes, in seconds."""
    command = [sys.executable, "-m", "mixer_jax.data.prepare"]
    command += [f"--table={path}", f"--workers={workers}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _changed(
    path: pathlib.Path, workers: int, fresh: float
) -> dict[str, float]:
    """Returns the time to prepare changed tables, as a share of `fresh`."""
    original = pq.read_table(path)
    rng, shares = np.random.default_rng(1), {}
    for kind in _CHANGES:
        _rewrite(path, _change(original, kind, rng))
        seconds = _prepare(path, workers)
        shares[f"changed_{kind}"] = seconds / fresh
        _rewrite(path, original)
        _prepare(path, workers)
    return shares


def _change(
    original: pa.Table, kind: str, rng: np.random.Generator
) -> pa.Table:
    """Returns a table with 1% of its rows changed, or 1% more rows."""
    count = len(original) // 100
    if kind == "appended":
        ids = pa.array([f"new{n}" for n in range(count)], pa.string())
        more = original[:count].set_column(0, "sample_id", ids)
        return pa.concat_tables([original, more])
    rows = np.arange(count) + len(original) // 2
    if kind == "scattered":
        rows = rng.choice(len(original), count, replace=False)
    groups = np.array(original["group"].to_pylist(), object)
    groups[rows] = "changed"
    column = pa.array(groups, pa.string())
    place = original.column_names.index("group")
    return original.set_column(place, "group", column)


def _rewrite(path: pathlib.Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=_ROWS)
    long_ago = time.time() - 3600  # Recently modified tables are reread.
    os.utime(path, (long_ago, long_ago))


def _start(path: pathlib.Path, position: int = 0) -> dict[str, float]:
    """Measures a start in a new process; see `data_start`."""
    command = [sys.executable, "-m", "benchmarks.data_start"]
    command += [f"--table={path}", f"--position={position}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def _batches(path: pathlib.Path, workers: int) -> Iterator[Any]:
    """Returns our batches, computed by worker processes."""
    config = data_start.make_config(str(path), workers)
    loaded = inputs.load(config.data, prepare=True)
    return inputs.Pictures(loaded, config).train_batches()


class TorchImages:
    """A map-style PyTorch dataset of the same image files."""

    def __init__(self, names: Sequence[str]):
        """Takes the paths of the images."""
        self._names = names

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._names)

    def __getitem__(self, number: int) -> Any:
        """Returns a decoded image, uint8 `[S, S, 3]`."""
        import torch

        pixels = decoding.decode(self._names[number], data_start.SIZE)
        return torch.from_numpy(pixels.copy())


def _torch_batches(
    path: pathlib.Path, count: int, workers: int
) -> Iterator[Any]:
    import torch.utils.data

    loader = torch.utils.data.DataLoader(
        TorchImages(_names(path, count)),
        data_start.BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    while True:  # An epoch may end before the time is up.
        yield from loader


def _read(batches: Iterator[Any]) -> float:
    """Returns the samples per second, excluding the first batches."""
    with contextlib.closing(batches):
        collections.deque((next(batches) for _ in range(4)), maxlen=0)
        begin, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - begin) < _SECONDS:
            next(batches)
            count += 1
    return count * data_start.BATCH / passed


def table(rows: list[Row]) -> rich.table.Table:
    """Formats the rows as a table."""
    side = rows[0]["side"]
    title = f"JPEG files of {side} pixels" if side else "Images in the table"
    shown = rich.table.Table(title=title, box=rich.box.SIMPLE)
    columns = {
        "samples": ("samples", ","),
        "workers": ("workers", ""),
        "prepare_per_s": ("prepared/s", ",.0f"),
        "ratio_to_bare": ("of bare", ".2f"),
        "changed_contiguous": ("1% changed", ".3f"),
        "changed_appended": ("1% added", ".3f"),
        "changed_scattered": ("1% scattered", ".3f"),
        "open_s": ("open, s", ".1f"),
        "resume_s": ("resume, s", ".1f"),
        "host_mb": ("MB", ".0f"),
        "delivered_per_s": ("delivered/s", ",.0f"),
        "ratio_to_dataloader": ("of DataLoader", ".2f"),
    }
    for heading, _ in columns.values():
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            *(
                "-" if row[key] is None else f"{row[key]:{how}}"
                for key, (_, how) in columns.items()
            )
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
