"""Our input pipeline, the bare work, and PyTorch's loader, as contenders.

All of them decode the same pictures to squares of S pixels by
`images.decode`, `workers` at once. Ours also reads the roles in their order,
tokenizes titles and stacks batches; PyTorch's shuffles and stacks.
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

from mixer_jax.data import builder
from mixer_jax.data.images import decoding
from mixer_jax.data.stream import pipeline, text
from mixer_jax.data.tables import table

BARE, TORCH = "bare", "torch DataLoader"
FILES, PREPARED = "files", "array_record"
FORMATS = ("jpeg", "png")
_CHUNK = 8  # pictures that a thread of the bare loop takes at once
_CATEGORIES = 16
_TEXT_LENGTH = 16  # tokens
_READ_AHEAD = 5  # batches a thread or worker, at most, that any side is ahead


@dataclasses.dataclass(frozen=True)
class Problem:
    """What all sides are given.

    Attributes:
      stored: side of the pictures as they are stored, pixels.
      size: S, of the decoded squares.
      format: of the files, one of `FORMATS`.
      images: how many there are.
      rows: of the table, which shows them over and over.
      batch: B, half queries and half documents.
      workers: threads, or processes.
      batches: that a round reads.
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
    """The pictures, in files and prepared, and the table of them."""

    def __init__(self, problem: Problem, folder: pathlib.Path):
        """Writes them into a folder."""
        self.problem, self.folder = problem, folder
        names = [f"{i}.{problem.format}" for i in range(problem.images)]
        for number, name in enumerate(names):
            picture(problem.stored, number).save(folder / name, quality=90)
        rows = []
        # Grain shuffles a few rows more slowly than many.
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
            PREPARED: builder.prepare(self.frame, folder),
        }


def picture(side: int, seed: int) -> Image.Image:
    """Returns a picture that compresses about as a photograph does."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (12, 12, 3), np.uint8)
    smooth = Image.fromarray(small).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (side, side, 1)).astype(np.float32)
    pixels = np.clip(np.asarray(smooth, np.float32) + grain, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def bare(data: Data) -> float:
    """Returns the seconds that a round's pictures take without any pipeline."""
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
    """Returns the seconds that a round takes our pipeline, once it runs.

    Args:
      data: of the problem.
      source: one of `Data.sources`.
      processes: whether worker processes decode, in place of threads.
      augment: see `data.augment`.
    """
    problem = data.problem
    iterator = pipeline.train_batches(
        data.frame,
        data.sources[source],
        table.category_index(data.frame),
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
    """A dataset as PyTorch wants it: a picture and its label by number."""

    def __init__(self, paths: list[pathlib.Path], size: int, count: int):
        """Takes the files, over and over until they are `count`."""
        self._paths, self._size, self._count = paths, size, count

    def __len__(self) -> int:
        """Returns how many there are."""
        return self._count

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """Returns a decoded picture, uint8 [S, S, 3], and its label."""
        import torch

        number %= len(self._paths)
        pixels = decoding.decode(self._paths[number], self._size)
        return torch.from_numpy(pixels.copy()), number // 2 % _CATEGORIES


def peer(data: Data) -> float:
    """Returns the seconds that a round takes PyTorch's loader, once it runs."""
    import torch.utils.data

    problem = data.problem
    # More than is read: the last batches would find idle workers.
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
    """Times a round's batches, after those that may have been read ahead."""
    for _ in range(_READ_AHEAD * problem.workers):
        next(iterator)
    start = time.perf_counter()
    for _ in range(problem.batches):
        next(iterator)
    return time.perf_counter() - start


def contenders(
    data: Data, torch: bool, augment: str
) -> dict[tuple[str, str], Callable[[], float]]:
    """Returns what takes part: (pipeline, source) -> seconds of a round.

    Args:
      data: of the problem.
      torch: whether PyTorch's loader does.
      augment: strength with which ours runs too; "none" is without.
    """
    found = {(BARE, FILES): functools.partial(bare, data)}
    for strength in dict.fromkeys(("none", augment)):
        for processes, name in ((False, "threads"), (True, "processes")):
            if strength != "none":
                name += f", {strength}"
            for source in data.sources:
                found[name, source] = functools.partial(
                    ours, data, source, processes, strength
                )
    if torch:
        found[TORCH, FILES] = functools.partial(peer, data)
    return found
