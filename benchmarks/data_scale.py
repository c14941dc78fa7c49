"""Measures preparing, opening and reading a table as it grows.

    python -m benchmarks.data_scale --samples=1000,100000 --json=data_scale.json

Draws small JPEG files, texts and categories with Zipf frequencies from a seed.
For each number of workers, prepares the table from scratch, and decodes the
same files in as many processes that do nothing else, which gives the ratio.
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
import pandas as pd
import rich.box
import rich.table
from PIL import Image

from benchmarks import data_start, machine, partial_fc_torch, printing
from mixer_jax.data.images import checking, decoding
from mixer_jax.data.tables import table as table_lib
from mixer_jax.runtime import threads
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs

_CATEGORIES = 100  # for all sizes, so that memory is that of the samples
_DISTINCT = 10_000  # images; the other files are links to these
_SECONDS = 20  # of reading batches
_CHUNK = 64  # images per task of the bare loop

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
        parent = pathlib.Path(given.json or "rows.json").absolute().parent
        if not parent.is_dir():
            raise UserError(f"--json={given.json}: there is no such folder.")
        for count in samples:
            rows += measure(count, workers, given.side, given.folder or None)
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
    add("--folder", default="", help="parent of the temporary folder")
    add("--json", default="", help="file to write the rows to")
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
    """Measures tables of `count` samples; returns one row per worker count."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = pathlib.Path(name)
        path = write(folder, count, side)
        rates = {}
        for number in workers:
            shutil.rmtree(folder / "prepared", ignore_errors=True)
            plain = count / _bare(folder, count, number)
            rates[number] = count / _prepare(path, number), plain
        start = _start(path)
        resume = _start(path, count // 4 // (data_start.BATCH // 2))
        rows = []
        for number, (rate, plain) in rates.items():
            ours = _read(_batches(path, number))
            theirs = None
            if partial_fc_torch.available():
                theirs = _read(_torch_batches(folder, count, number))
            rows.append(
                {
                    "samples": count,
                    "workers": number,
                    "prepare_per_s": rate,
                    "ratio_to_bare": rate / plain,
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

    Returns:
      The path of the table; the images are `0.jpg`, `1.jpg`, ...
    """
    rng = np.random.default_rng(0)
    for number in range(min(count, _DISTINCT)):
        small = rng.integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(small).resize((side, side), Image.BICUBIC)
        content = io.BytesIO()
        image.save(content, "jpeg", quality=90)
        (folder / f"{number}.jpg").write_bytes(content.getvalue())
    for number in range(_DISTINCT, count):
        os.link(folder / f"{number % _DISTINCT}.jpg", folder / f"{number}.jpg")
    weights = 1 / np.arange(1, _CATEGORIES + 1)
    categories = rng.choice(_CATEGORIES, count, p=weights / weights.sum())
    # Each category needs two samples.
    categories[: 2 * _CATEGORIES] = np.repeat(np.arange(_CATEGORIES), 2)
    numbers = np.arange(count)
    is_document = numbers % 2 == 1
    frame = pd.DataFrame(
        {
            "sample_id": "s" + pd.Series(numbers).astype(str),
            "role": np.where(is_document, "document", "query"),
            "image": pd.Series(numbers).astype(str) + ".jpg",
            "text": ("thing " + pd.Series(numbers % 5000).astype(str)).where(
                is_document, ""
            ),
            "category_id": "c" + pd.Series(categories).astype(str),
            "group": "",
            "split": "train",
        }
    )[list(table_lib.COLUMNS)]
    path = folder / "table.parquet"
    table_lib.write_table(frame, path)
    long_ago = time.time() - 3600  # A new table is read again to be sure.
    os.utime(path, (long_ago, long_ago))
    return path


def _decode(folder: pathlib.Path, start: int, stop: int) -> None:
    for number in range(start, stop):
        decoding.decode(folder / f"{number}.jpg", checking.CHECKED)


def _bare(folder: pathlib.Path, count: int, workers: int) -> float:
    """Returns the seconds that processes need to decode all files once."""
    begin = time.perf_counter()
    with threads.process_pool(workers) as pool:
        tasks = [
            pool.submit(_decode, folder, start, min(start + _CHUNK, count))
            for start in range(0, count, _CHUNK)
        ]
        for task in tasks:
            task.result()
    return time.perf_counter() - begin


def _prepare(path: pathlib.Path, workers: int) -> float:
    """Returns the seconds that preparing a table takes, as a command."""
    command = [sys.executable, "-m", "mixer_jax.data.prepare"]
    command += [f"--table={path}", f"--workers={workers}"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _start(path: pathlib.Path, position: int = 0) -> dict[str, float]:
    """Returns what a new process measures; see `data_start`."""
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
    """A map-style PyTorch dataset of the same files."""

    def __init__(self, folder: pathlib.Path, count: int):
        """Takes the folder of `count` images."""
        self._folder, self._count = folder, count

    def __len__(self) -> int:
        """Returns the number of images."""
        return self._count

    def __getitem__(self, number: int) -> Any:
        """Returns a decoded image, uint8 `[S, S, 3]`."""
        import torch

        path = self._folder / f"{number}.jpg"
        return torch.from_numpy(decoding.decode(path, data_start.SIZE).copy())


def _torch_batches(
    folder: pathlib.Path, count: int, workers: int
) -> Iterator[Any]:
    import torch.utils.data

    loader = torch.utils.data.DataLoader(
        TorchImages(folder, count),
        data_start.BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    while True:  # An epoch may be short.
        yield from loader


def _read(batches: Iterator[Any]) -> float:
    """Returns the samples per second, after the first batches."""
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
    shown = rich.table.Table(
        title=f"JPEG files of {side} pixels", box=rich.box.SIMPLE
    )
    columns = {
        "samples": ("samples", ","),
        "workers": ("workers", ""),
        "prepare_per_s": ("prepared/s", ",.0f"),
        "ratio_to_bare": ("of bare", ".2f"),
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
