"""Shards of a prepared data set, each written and checked by itself.

By default, the rows of each split are divided into shards at IDs with certain
hashes, so that new or removed rows do not change other shards. A shard's bytes
depend on its rows alone. The result is therefore the same for any number of
threads or processes, and after any interruption.
Unchanged shards are taken over from an earlier version; rows of other shards
that it already has are copied without decoding their images again.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.images import checking, crops, decoding
from mixer_jax.data.images.faults import UnreadableImageError
from mixer_jax.data.prepared import records
from mixer_jax.data.tables import table
from mixer_jax.runtime import files, identity, paths
from mixer_jax.runtime.tabular import references

TEXTS = tuple(name for name in table.COLUMNS if name != "image")
OPTION = "data.max_pixels"  # for messages
_ROWS = 1024  # average number of rows per shard by default
_LONGEST = 8  # times the average; one in 3,000 shards would be longer
_MAX_SHARDS = 512  # average number by default; each one in use is an open file
_SEED = "mixer_jax shards"  # 16 characters
_CHUNK = 1 << 20  # bytes
_STOP = "stop"  # a file among the results that ends all tasks
_STOP_CHECK_ROWS = 64  # rows between checks for this file


class StoppedError(Exception):
    """Raised in a task that was asked to stop."""


class Fault(NamedTuple):
    """A row whose image cannot be decoded.

    Attributes:
      row: position in the frame.
      kind: one of `faults.KINDS`.
      reason: the error message without the path that it starts with.
      image: the image's path, relative to the table.
    """

    row: int
    kind: str
    reason: str
    image: str


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
            if begin == first and part.examples_in_shard:
                same = part.examples_in_shard == len(self.records)
                return part if same else None
            begin += part.examples_in_shard
        return None


@dataclasses.dataclass(frozen=True)
class Shard:
    """The rows to write to one file.

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
      checksum: the file's checksum, hexadecimal.
      digests: uint8 `[n, 16]`, the digests of the rows' image files; 0 for
        none.
      faults: the rows that were left out.
    """

    count: int
    size: int
    checksum: str
    digests: np.ndarray
    faults: tuple[Fault, ...]


def split_names(frame: pd.DataFrame) -> np.ndarray:
    """Returns the split of each row without its part, `[N]` of str."""
    codes, splits = pd.factorize(frame["split"])
    names = [split.split("/", 1)[0] for split in splits]
    return np.array(names, object)[codes]


def plan(splits: np.ndarray, ids: np.ndarray, number: int = 0) -> list[Shard]:
    """Divides the rows of each split into shards.

    Args:
      splits: `[N]`, the split of each row.
      ids: `[N]`, the sample IDs.
      number: the number of shards per split, or 0 for about one per 1,024 rows,
        and about 512 at most. A split with fewer rows has one shard per row.
    """
    shards = []
    codes, names = pd.factorize(splits, sort=True)
    hashes = pd.util.hash_array(ids, hash_key=_SEED)
    for code, split in enumerate(names):
        rows = np.flatnonzero(codes == code)
        if number:
            parts = np.array_split(rows, min(number, len(rows)))
        else:
            parts = np.split(rows, _cuts(hashes[rows]))
        for place, part in enumerate(parts):
            name = file_name(split, place, len(parts))
            shards.append(Shard(name, split, part))
    return shards


def _cuts(hashes: np.ndarray) -> np.ndarray:
    """Returns the ascending positions at which shards after the first begin."""
    average = _ROWS
    # A power of 2, so that the cuts for a larger average are a subset.
    while len(hashes) > average * _MAX_SHARDS:
        average *= 2
    cuts = np.flatnonzero(hashes % np.uint64(average) == 0)
    cuts = np.concatenate([[0], cuts[cuts > 0], [len(hashes)]])
    # Cut long shards at regular distances.
    longest = _LONGEST * average
    more = [np.arange(a, b, longest) for a, b in itertools.pairwise(cuts)]
    return np.concatenate(more)[1:]


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
            # A process that is just ending may have renamed it.
            path.unlink(missing_ok=True)


def stop(results: Path) -> None:
    """Asks all tasks, in any process, to stop soon."""
    with contextlib.suppress(OSError):  # The disk may be full.
        (results / _STOP).touch()


def prepare_process() -> None:
    """Loads this module in a new process, before the first task is ready."""


def write(task: Task) -> Result:
    """Writes a shard, unless an interrupted run has already finished it.

    Raises:
      OSError: if the disk is full or cannot be written to.
      StoppedError: after a call of `stop`.
    """
    path = task.folder / task.shard.name
    result_path = task.results / f"{task.shard.name}.json"
    if (result := _finished(path, result_path, task)) is not None:
        return result
    checksum = _take_over(task, path)
    if checksum:
        digests, faults, count = task.earlier.digests, (), len(task.shard.rows)
    else:
        digests = np.zeros((len(task.shard.rows), 16), np.uint8)
        found: list[Fault] = []
        # A process of an interrupted run may not have ended yet.
        draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        where = paths.plain(draft.parent) / draft.name
        count = records.write(where, _records(task, digests, found))
        draft.rename(path)
        faults, checksum = tuple(found), _checksum(path)
    size = path.stat().st_size
    result = Result(count, size, checksum, digests, faults)
    plain = dataclasses.asdict(result) | {
        "digests": digests.tobytes().hex(),
        "key": task.key,
    }
    # Not synced to disk: `_finished` detects what a power failure has lost.
    writer = files.text_writer(json.dumps(plain))
    files.write(result_path, writer, one_of_many=True)
    return result


def _records(
    task: Task, digests: np.ndarray, found: list[Fault]
) -> Iterator[bytes]:
    """Yields the records of a shard; fills in digests and faults."""
    earlier = task.earlier
    known = records.source(earlier.parts) if earlier else ()
    status = task.status.T.tolist()
    for place, row in enumerate(task.shard.rows.tolist()):
        if place % _STOP_CHECK_ROWS == 0 and (task.results / _STOP).exists():
            raise StoppedError
        record = None
        if earlier and earlier.records[place] >= 0:
            # array_record raises many types of errors for damaged files.
            with contextlib.suppress(Exception):
                record = known[int(earlier.records[place])]
        if record is not None:
            digests[place] = earlier.digests[place]
            yield record
            continue
        content = b""
        if name := task.images[place]:
            path = os.path.join(task.root, name)
            try:
                content = None
                content = _read(path, *status[place])
                decoding.decode(
                    content, checking.CHECKED, task.max_pixels, option=OPTION
                )
            except UnreadableImageError as error:
                reason = _reason(error, path)
                found.append(Fault(row, error.kind, reason, name))
                if content is not None:
                    digests[place] = _digest(name, content)
                continue
            digests[place] = _digest(name, content)
        cells = {name: column[place] for name, column in task.texts.items()}
        content, cells["box"] = crops.detach(content)
        yield records.encode(cells, content)


def _read(path: str, size: int, modified: int) -> bytes:
    """Returns the bytes of an image that is as expected.

    A file must have the given size and time. An image in a Parquet file is
    compared with its digest when it is read.

    Args:
      path: the path of the image.
      size: the expected size in bytes; -1 if it is missing.
      modified: the expected time in nanoseconds; -1 if it is missing.

    Raises:
      UnreadableImageError: if the file cannot be read.
      PassingError: if it was changed, removed or created since its size and
        time were looked up, as when a file system is lost for a moment.
    """
    if references.parse(path):
        return decoding.read(path)
    try:
        return decoding.read(path)
    finally:
        file = references.file_of(path)
        if identity.stat_one(file) != (size, modified):
            raise identity.changed_error(file)


def _digest(name: str, content: bytes) -> np.ndarray | int:
    """Returns the digest of an image file; 0 if the name is a digest."""
    if references.parse(name):
        return 0
    return identity.digest(crops.detach(content)[0])


def _reason(error: UnreadableImageError, path: str) -> str:
    """Returns an error message without the image's name."""
    message = str(error)
    for start in (references.label(path), "an image"):
        message = message.removeprefix(start)
    return message


def _finished(path: Path, result_path: Path, task: Task) -> Result | None:
    """Returns the result of a finished shard whose file is undamaged."""
    try:
        plain = json.loads(result_path.read_text())
        if plain.pop("key") != task.key:
            return None  # A shard of that name with other rows.
        digests = np.frombuffer(bytes.fromhex(plain["digests"]), np.uint8)
        plain["digests"] = digests.reshape(-1, 16)
        plain["faults"] = tuple(Fault(*fault) for fault in plain["faults"])
        result = Result(**plain)
        if path.stat().st_size == result.size and (
            task.checked or _checksum(path) == result.checksum
        ):
            return result
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _take_over(task: Task, path: Path) -> str:
    """Takes over an undamaged file of the earlier version, if one fits.

    The content of a file that has not been modified is not read: like at a
    start, its size and time are enough.

    Returns:
      Its checksum; "" if there is none.
    """
    old = task.earlier and task.earlier.same_part()
    if not old:
        return ""
    path.unlink(missing_ok=True)
    try:
        try:
            os.link(old.filename, path)
            if old.unmodified:
                return old.checksum
        except OSError:  # Some file systems have no hard links.
            shutil.copyfile(old.filename, path)
        if _checksum(path) == old.checksum:
            return old.checksum
    except OSError:
        pass  # The old file may be damaged.
    path.unlink(missing_ok=True)
    return ""


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
