"""Inputs and results of the processes that write shards.

Processes that write shards do not need pandas, whose import takes longer than
writing a thousand small images.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixer_jax.data.prepared import records

_STOP = "stop"  # file in the results folder that stops all tasks


class StoppedError(Exception):
    """Raised in a task that was asked to stop."""


class Fault(NamedTuple):
    """A row whose image cannot be decoded.

    Attributes:
      row: position in the frame.
      kind: one of `faults.KINDS`.
      reason: the error message without its leading path.
      image: the image's path, relative to the table.
    """

    row: int
    kind: str
    reason: str
    image: str


@dataclasses.dataclass(frozen=True)
class Earlier:
    """Rows kept from an earlier version.

    Attributes:
      parts: the earlier version's files.
      records: int64 `[n]`, the record of each row of a shard; -1 for new rows.
      digests: uint8 `[n, 16]`, the digests of their images.
    """

    parts: tuple[records.Part, ...]
    records: np.ndarray
    digests: np.ndarray

    def only_part(self) -> tuple[records.Part, np.ndarray] | None:
        """Returns the file with all of these rows, and their record numbers.

        Returns:
          The file and int64 `[n]`; None if the rows are in several files.
        """
        begin = 0
        for part in self.parts:
            end = begin + part.examples_in_shard
            if ((self.records >= begin) & (self.records < end)).all():
                return part, self.records - begin
            begin = end
        return None

    def same_part(self) -> records.Part | None:
        """Returns the file that consists of exactly these rows, if any."""
        first = self.records[0]
        if first < 0 or not np.array_equal(
            self.records, first + np.arange(len(self.records))
        ):
            return None
        begin = 0
        for part in self.parts:
            if begin == first and part.examples_in_shard:
                same = part.examples_in_shard == len(self.records)
                return part if same else None
            begin += part.examples_in_shard
        return None


class Shard(NamedTuple):
    """The rows whose records are in one file.

    Attributes:
      name: the name of the file.
      split: the name of the split.
      rows: int64 `[n]`, ascending positions in the frame.
      linked: whether the file comes from an earlier version; if so, it may also
        contain superseded records.
    """

    name: str
    split: str
    rows: np.ndarray
    linked: bool = False


@dataclasses.dataclass(frozen=True)
class Task:
    """A shard and the rows' content; can be sent to another process.

    Attributes:
      shard: the shard.
      folder: the folder of the file.
      results: the folder of finished shards' results.
      root: the folder that the image paths are relative to.
      images: the image paths of the rows.
      status: int64 `[2, n]`, sizes and times of the images; -1 if missing.
      texts: the other cells of the rows, by column.
      max_pixels: see `decoding.decode`.
      key: identifies the rows, their images and the options.
      earlier: rows kept from an earlier version.
      checked: whether a finished file's content need not be checked.
    """

    shard: Shard
    folder: Path
    results: Path
    root: Path
    images: Sequence[str]
    status: np.ndarray
    texts: dict[str, Sequence[str]]
    max_pixels: int
    key: str
    earlier: Earlier | None = None
    checked: bool = False


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a finished shard.

    Attributes:
      count: the number of records.
      size: the size of the file in bytes.
      checksum: see `records.checksum`.
      digests: uint8 `[n, 16]`, the digests of the rows' image files; 0 for
        none.
      faults: the rows left out.
      places: the record of each row; empty if the file has no other records.
    """

    count: int
    size: int
    checksum: str
    digests: np.ndarray
    faults: tuple[Fault, ...]
    places: tuple[int, ...] = ()


def stop(results: Path) -> None:
    """Asks all tasks, in every process, to stop."""
    with contextlib.suppress(OSError):  # The disk may be full.
        (results / _STOP).touch()


def check_stop(results: Path) -> None:
    """Raises a `StoppedError` if `stop` has been called."""
    if (results / _STOP).exists():
        raise StoppedError


def allow(results: Path) -> None:
    """Lets tasks run after an earlier run has called `stop`."""
    (results / _STOP).unlink(missing_ok=True)
