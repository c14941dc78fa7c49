"""Shards of a prepared data set, each written and checked by itself.

The rows of each split are divided into shards by their number alone, and a
shard's bytes depend on its rows alone. The result is therefore the same for any
number of threads or processes, and after any interruption. Rows that an earlier
version already has are copied without decoding their images again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.images import checking, decoding
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.prepared import records
from mixer_jax.data.tables import table
from mixer_jax.runtime import files, identity, paths

TEXTS = tuple(name for name in table.COLUMNS if name != "image")
OPTION = "data.max_pixels"  # for messages
_ROWS = 8192  # rows per shard by default
_MOST = 512  # shards by default; each one in use is an open file
_CHUNK = 1 << 20  # bytes
_STOP = "stop"  # a file among the results that ends all tasks
_EVERY = 64  # rows between two looks for it


class StoppedError(Exception):
    """Raised in a task that was asked to stop."""


class Fault(NamedTuple):
    """A row whose image cannot be decoded.

    Attributes:
      row: position in the frame.
      kind: one of `faults.KINDS`.
      reason: the error message without the path that it starts with.
    """

    row: int
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Earlier:
    """Rows that are kept from an earlier version.

    Attributes:
      parts: the earlier version's files.
      records: int64 `[n]`, the record of each row of a shard; -1 for new rows.
      digests: uint8 `[n, 16]`, the digests of their images.
    """

    parts: tuple[records.Part, ...]
    records: np.ndarray
    digests: np.ndarray

    def same_part(self) -> records.Part | None:
        """Returns the file that consists of exactly these rows, if any."""
        first = self.records[0]
        if first < 0 or not np.array_equal(
            self.records, first + np.arange(len(self.records))
        ):
            return None
        begin = 0
        for part in self.parts:
            if begin == first:
                same = part.examples_in_shard == len(self.records)
                return part if same else None
            begin += part.examples_in_shard
        return None


@dataclasses.dataclass(frozen=True)
class Shard:
    """What to write into one file.

    Attributes:
      name: the name of the file.
      split: the name of the split.
      rows: int64 `[n]`, ascending positions in the frame.
    """

    name: str
    split: str
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Task:
    """A shard and the rows' content; can be sent to another process.

    Attributes:
      shard: the shard.
      folder: the folder of the file.
      results: the folder of finished shards' results.
      root: the folder that the image paths are relative to.
      images: the image paths of the rows.
      texts: the other cells of the rows, by column.
      max_pixels: see `decoding.decode`.
      earlier: rows kept from an earlier version.
    """

    shard: Shard
    folder: Path
    results: Path
    root: Path
    images: Sequence[str]
    texts: dict[str, Sequence[str]]
    max_pixels: int
    earlier: Earlier | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What is known of a finished shard.

    Attributes:
      count: the number of records.
      size: the size of the file in bytes.
      checksum: the file's checksum, hexadecimal.
      digests: uint8 `[n, 16]`, the digests of the rows' images; 0 for none.
      faults: the rows that were left out.
    """

    count: int
    size: int
    checksum: str
    digests: np.ndarray
    faults: tuple[Fault, ...]


def plan(splits: np.ndarray, number: int = 0) -> list[Shard]:
    """Divides the rows of each split into shards.

    Args:
      splits: `[N]`, the split of each row.
      number: the number of shards per split; 0 for one per 8,192 rows, up to
        512. A split with fewer rows has one shard per row.
    """
    shards = []
    codes, names = pd.factorize(splits, sort=True)
    for code, split in enumerate(names):
        rows = np.flatnonzero(codes == code)
        count = number or min(-(-len(rows) // _ROWS), _MOST)
        parts = np.array_split(rows, min(count, len(rows)))
        for place, part in enumerate(parts):
            name = file_name(split, place, len(parts))
            shards.append(Shard(name, split, part))
    return shards


def file_name(split: str, place: int, count: int) -> str:
    """Returns the name that TFDS gives to a shard's file."""
    of = f"{place:05}-of-{count:05}"
    return f"sample_table-{split}.array_record-{of}"


def clear(plan: Sequence[Shard], folder: Path, results: Path) -> None:
    """Removes what an interrupted run left behind that is not in the plan."""
    (results / _STOP).unlink(missing_ok=True)
    names = {shard.name for shard in plan}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def stop(results: Path) -> None:
    """Makes the tasks with these results end soon, also in other processes."""
    with contextlib.suppress(OSError):  # The disk may be full.
        (results / _STOP).touch()


def write(task: Task) -> Result:
    """Writes a shard, unless an interrupted run has already finished it.

    Raises:
      OSError: if the disk is full or cannot be written to.
      StoppedError: after a call of `stop`.
    """
    path = task.folder / task.shard.name
    kept = task.results / f"{task.shard.name}.json"
    if (result := _finished(path, kept)) is not None:
        return result
    shared = task.earlier and task.earlier.same_part()
    if shared:
        _share(Path(shared.filename), path)
        digests, faults, count = task.earlier.digests, (), len(task.shard.rows)
    else:
        digests = np.zeros((len(task.shard.rows), 16), np.uint8)
        found: list[Fault] = []
        draft = path.with_name(f".{path.name}")
        where = paths.plain(draft.parent) / draft.name
        count = records.write(where, _records(task, digests, found))
        draft.rename(path)
        faults = tuple(found)
    size = path.stat().st_size
    result = Result(count, size, _checksum(path), digests, faults)
    plain = dataclasses.asdict(result) | {"digests": digests.tobytes().hex()}
    files.write_text(kept, json.dumps(plain))
    return result


def _records(
    task: Task, digests: np.ndarray, found: list[Fault]
) -> Iterator[bytes]:
    """Yields the records of a shard; fills in digests and faults."""
    earlier = task.earlier
    known = records.source(earlier.parts) if earlier else ()
    for place, row in enumerate(task.shard.rows.tolist()):
        if place % _EVERY == 0 and (task.results / _STOP).exists():
            raise StoppedError
        if earlier and earlier.records[place] >= 0:
            digests[place] = earlier.digests[place]
            yield known[int(earlier.records[place])]
            continue
        content = b""
        if name := task.images[place]:
            path = task.root / name
            try:
                content = decoding.read(path)
                decoding.decode(
                    content, checking.CHECKED, task.max_pixels, option=OPTION
                )
            except UnreadableImageError as error:
                found.append(Fault(row, error.kind, _reason(error, path)))
                if content:
                    digests[place] = identity.digest(content)
                continue
            digests[place] = identity.digest(content)
        cells = {name: column[place] for name, column in task.texts.items()}
        yield records.encode(cells, content)


def _reason(error: UnreadableImageError, path: Path) -> str:
    """Returns an error message without the image's name."""
    message = str(error)
    for start in (str(path), "an image"):
        message = message.removeprefix(start)
    return message


def _finished(path: Path, kept: Path) -> Result | None:
    """Returns the result of a finished shard whose file is undamaged."""
    try:
        plain = json.loads(kept.read_text())
        digests = np.frombuffer(bytes.fromhex(plain["digests"]), np.uint8)
        plain["digests"] = digests.reshape(-1, 16)
        plain["faults"] = tuple(Fault(*fault) for fault in plain["faults"])
        result = Result(**plain)
        if path.stat().st_size == result.size:
            return result if _checksum(path) == result.checksum else None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _share(old: Path, new: Path) -> None:
    """Makes a file available under another name, as a copy if necessary."""
    new.unlink(missing_ok=True)
    try:
        os.link(old, new)
    except OSError:  # Some file systems have no hard links.
        shutil.copyfile(old, new)


def _checksum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
