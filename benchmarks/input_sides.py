"""Contenders of the input benchmark: ours, bare decoding and PyTorch's loader.

All of them decode the same images to squares of S pixels with
`decoding.decode`, `workers` at a time. Ours also shuffles each role, tokenizes
titles and stacks batches; PyTorch's loader shuffles and stacks.
"""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.data.prepared import build
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import samples, table

BARE, TORCH = "bare", "torch DataLoader"
FILES, PREPARED = "files", "array_record"
FORMATS = ("jpeg", "png")
_CHUNK = 8  # images per task of the bare loop
_CATEGORIES = 16
_TEXT_LENGTH = 16  # tokens
_READ_AHEAD = 5  # maximum number of batches prefetched per thread or worker


@dataclasses.dataclass(frozen=True)
class Problem:
    """Settings common to all contenders.

    Attributes:
      stored: side of the stored images in pixels.
      size: S, side of the decoded squares in pixels.
      format: file format, one of `FORMATS`.
      images: number of distinct images.
      rows: number of rows of the table, which repeats the images.
      batch: B, the batch size, half queries and half documents.
      workers: number of threads or processes.
      batches: number of batches per round.
    """

    stored: int
    size: int
    format: str
    images: int
    rows: int
    batch: int
    workers: int
    batches: int


class Data:
    """The images, both as files and prepared, and their sample table."""

    def __init__(self, problem: Problem, folder: pathlib.Path):
        """Writes the images to a folder."""
        self.problem, self.folder = problem, folder
        names = [f"{i}.{problem.format}" for i in range(problem.images)]
        for number, name in enumerate(names):
            picture(problem.stored, number).save(folder / name, quality=90)
        rows = []
        # Grain shuffles small tables more slowly than large ones.
        for number in range(max(problem.images, problem.rows)):
            name = names[number % problem.images]
            role = (table.QUERY, table.DOCUMENT)[number % 2]
            title = f"picture number {number}" if number % 2 else ""
            category = f"c{number // 2 % _CATEGORIES}"
            key = f"s{number}"
            rows.append((key, role, name, title, category, "", "train"))
        self.frame = pd.DataFrame(rows, columns=table.COLUMNS)
        self.paths = [folder / name for name in names]
        self.tokenizer = text.load("minilm", _TEXT_LENGTH)
        self.sources = {
            FILES: pipeline.FileSource(self.frame, folder),
            PREPARED: build.prepare(self.frame, folder).source(),
        }


def picture(side: int, seed: int) -> Image.Image:
    """Returns a random image that compresses about as well as a photograph."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (12, 12, 3), np.uint8)
    smooth = Image.fromarray(small).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (side, side, 1)).astype(np.float32)
    pixels = np.clip(np.asarray(smooth, np.float32) + grain, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def bare(data: Data) -> float:
    """Returns the seconds of a round that only decodes, without a pipeline."""
    problem = data.problem
    count = problem.batch * problem.batches
    paths = [data.paths[i % len(data.paths)] for i in range(count)]
    chunks = [paths[i : i + _CHUNK] for i in range(0, count, _CHUNK)]

    def decode(chunk: list[pathlib.Path]) -> None:
        for path in chunk:
            decoding.decode(path, problem.size)

    start = time.perf_counter()
    with ThreadPoolExecutor(problem.workers) as pool:
        collections.deque(pool.map(decode, chunks), maxlen=0)
    return time.perf_counter() - start


def ours(data: Data, source: str, processes: bool, augment: str) -> float:
    """Returns the seconds of a round of our pipeline, after its startup.

    Args:
      data: images and table to read.
      source: one of `Data.sources`.
      processes: whether worker processes decode instead of threads.
      augment: strength of the augmentation, as in `config.data.augment`.
    """
    problem = data.problem
    iterator = pipeline.train_batches(
        samples.from_frame(data.frame),
        data.sources[source],
        data.tokenizer,
        image_size=problem.size,
        batch_size=problem.batch,
        augment=augment,
        threads=problem.workers,
        workers=problem.workers if processes else 0,
    )
    with contextlib.closing(iterator):
        return _time(iterator, problem)


class TorchImages:
    """A map-style PyTorch dataset of images and their labels."""

    def __init__(self, paths: list[pathlib.Path], size: int, count: int):
        """Repeats the files until there are `count` images."""
        self._paths, self._size, self._count = paths, size, count

    def __len__(self) -> int:
        """Returns the number of images."""
        return self._count

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """Returns a decoded image, uint8 `[S, S, 3]`, and its label."""
        import torch

        number %= len(self._paths)
        pixels = decoding.decode(self._paths[number], self._size)
        return torch.from_numpy(pixels.copy()), number // 2 % _CATEGORIES


def peer(data: Data) -> float:
    """Returns the seconds of a round of PyTorch's loader, after its startup."""
    import torch.utils.data

    problem = data.problem
    # Offer more batches than are read, so that no worker runs out of work.
    batches = problem.batches + 2 * _READ_AHEAD * problem.workers
    loader = torch.utils.data.DataLoader(
        TorchImages(data.paths, problem.size, problem.batch * batches),
        problem.batch,
        shuffle=True,
        num_workers=problem.workers,
        multiprocessing_context="spawn",
    )
    return _time(iter(loader), problem)


def _time(iterator: Iterator, problem: Problem) -> float:
    """Times a round's batches, after those that may have been prefetched."""
    for _ in range(_READ_AHEAD * problem.workers):
        next(iterator)
    start = time.perf_counter()
    for _ in range(problem.batches):
        next(iterator)
    return time.perf_counter() - start


def contenders(
    data: Data, torch: bool, augment: str
) -> dict[tuple[str, str], Callable[[], float]]:
    """Returns the contenders: (pipeline, source) -> seconds of a round.

    Args:
      data: images and table to read.
      torch: whether to include PyTorch's loader.
      augment: the augmentation strength of our additional run; "none" for no
        such run.
    """
    sides = {(BARE, FILES): functools.partial(bare, data)}
    for strength in dict.fromkeys(("none", augment)):
        for processes, name in ((False, "threads"), (True, "processes")):
            if strength != "none":
                name += f", {strength}"
            for source in data.sources:
                sides[name, source] = functools.partial(
                    ours, data, source, processes, strength
                )
    if torch:
        sides[TORCH, FILES] = functools.partial(peer, data)
    return sides
