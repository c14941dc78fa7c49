"""Writes all files of a new version of a prepared data set."""

import collections
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.images import memory
from mixer_jax.data.prepared import (
    generations,
    kept,
    records,
    shards,
    tasks,
    tfds_files,
)
from mixer_jax.data.prepared import version as version_lib
from mixer_jax.data.prepared.write_behind import settle
from mixer_jax.data.tables import category_notes, samples, table
from mixer_jax.runtime import arrays, files, identity, progress
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import PassingError
from mixer_jax.runtime.tabular import strings


@dataclasses.dataclass(frozen=True)
class Options:
    """Options for preparing samples.

    Attributes:
      max_pixels: see `decoding.decode`.
      shards: the number of files per split; 0 to derive it from the rows.
      workers: the number of processes that decode; 0 for one thread per core.
      image_roots: folders that may hold images; see `roots.rules`.
      fetch_rate: the maximum number of requests per second and host for images
        given by address; 0 to fetch none.
      origin: the address that relative paths refer to, see `fetching.fetch`.
      compact: whether to keep superseded records out of all files, so that TFDS
        can read them.
      place: the option that names the folder, for error messages.
    """

    max_pixels: int = memory.MAX_PIXELS
    shards: int = 0
    workers: int = 0
    image_roots: str = ""
    fetch_rate: float = 0.0
    origin: str = ""
    compact: bool = False
    place: str = "data.prepared"


class Draft(NamedTuple):
    """An unfinished version of a prepared data set.

    Attributes:
      group: the name of the folder of the table's versions.
      folder: the name of the draft's folder in the group.
      version: the name of the version's folder in it.
    """

    group: str
    folder: str
    version: str


@dataclasses.dataclass(frozen=True)
class Peers:
    """Other processes that write shards of the same draft.

    Attributes:
      part: the shards that this process writes.
      begin: tells the others the draft and the key of its data.
      wait: waits until the others have written their shards.
    """

    part: slice
    begin: Callable[[Draft, str], None]
    wait: Callable[[], None]


class Pool(NamedTuple):
    """Threads or processes that write shards.

    Attributes:
      executor: runs `shards.write`.
      number: the number of threads or processes.
    """

    executor: Executor
    number: int


@contextlib.contextmanager
def pool(workers: int) -> Iterator[Pool]:
    """Yields a pool of threads or processes that start in the background.

    Args:
      workers: see `Options`.
    """
    number = workers or os.cpu_count() or 1
    kind = threads_lib.process_pool if workers else threads_lib.pool
    with kind(number) as executor:
        for _ in range(number if workers else 0):
            executor.submit(shards.prepare_process)
        yield Pool(executor, number)


def write(
    frame: pd.DataFrame,
    root: Path,
    images: kept.Images,
    plan: Sequence[tasks.Shard],
    now: np.ndarray,
    version: Path,
    results: Path,
    earlier: kept.Kept | None,
    options: Options,
    pool: Pool,
    checked: bool = False,
) -> list[tasks.Result]:
    """Writes all shards that are not finished yet; shows the progress.

    The shards are synced to disk while others are being written.

    Args:
      frame: rows of a sample table.
      root: the folder that the image paths are relative to.
      images: the images of the rows.
      plan: the shards to write.
      now: the keys of the rows; see `kept.keys`.
      version: the folder of the new version.
      results: the folder of the finished shards' results.
      earlier: rows kept from an earlier version.
      options: how samples are prepared.
      pool: writes the shards.
      checked: whether finished shards have been checked.

    Raises:
      OSError: if the disk is full or cannot be written to.
      PassingError: if a worker process was killed.
    """
    status = images.status()
    ordered = _largest_first(plan, images)

    def make_tasks() -> Iterator[tasks.Task | tasks.Result]:
        for shard in ordered:
            known = earlier.for_shard(shard) if earlier else None
            folder = version / tfds_files.FOLDER
            if result := shards.link(shard, folder, known):
                yield result
                continue
            # Converting all rows at once would take several times the memory.
            rows = frame.iloc[shard.rows]
            yield tasks.Task(
                shard=shard,
                folder=folder,
                results=results,
                root=root,
                images=rows["image"].tolist(),
                status=status[:, shard.rows],
                texts={name: rows[name].tolist() for name in records.TEXTS},
                max_pixels=options.max_pixels,
                key=hashlib.sha256(now[shard.rows].tobytes()).hexdigest(),
                earlier=known,
                checked=checked,
            )

    made, total = {}, sum(len(shard.rows) for shard in plan)
    with threads_lib.pool() as syncing:
        try:
            synced = []
            with progress.show("Preparing the samples", total) as count:
                results_in_order = _in_order(pool, make_tasks())
                for shard, result in zip(
                    ordered, results_in_order, strict=True
                ):
                    path = version / tfds_files.FOLDER / shard.name
                    synced.append(syncing.submit(settle, path))
                    made[shard.name] = result
                    count(len(result.digests))
            for each in synced:
                each.result()
        except BaseException:
            tasks.stop(results)  # The pool waits for its tasks.
            raise
    return [made[shard.name] for shard in plan]


def _largest_first(
    plan: Sequence[tasks.Shard], images: kept.Images
) -> list[tasks.Shard]:
    """Orders shards so that all processes finish at about the same time."""
    if (images.places < 0).all():
        # Images in Parquet files are read fastest in the table's order.
        return list(plan)
    return sorted(plan, key=lambda shard: -len(shard.rows))


def describe(
    frame: pd.DataFrame,
    root: Path,
    images: kept.Images,
    plan: Sequence[tasks.Shard],
    made: Sequence[tasks.Result],
    now: np.ndarray,
    version: Path,
    options: Options,
    earlier: kept.Kept | None,
) -> None:
    """Writes the files that describe the shards, the manifest last.

    Args:
      frame: all rows of a split of a sample table.
      root: the folder that the image paths are relative to.
      images: the images of the rows.
      plan: the shards.
      made: their results.
      now: the keys of the rows; see `kept.keys`.
      version: the folder of the new version.
      options: how samples are prepared.
      earlier: rows kept from an earlier version.

    Raises:
      PassingError: if an image that was read has changed since it was examined.
    """
    data = images.data
    _check_unchanged(images, earlier)
    skipped = sorted(fault for one in made for fault in one.faults)
    places = np.full(len(frame), -1, np.int64)
    digests = np.zeros((len(frame), 16), np.uint8)
    splits: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    left_out = np.zeros(len(frame), bool)
    left_out[[fault.row for fault in skipped]] = True
    total = 0
    for shard, result in zip(plan, made, strict=True):
        rows = shard.rows[~left_out[shard.rows]]
        places[rows] = total + np.array(result.places or range(len(rows)), int)
        digests[shard.rows] = result.digests
        total += result.count
        splits[shard.split].append((result.count, result.size))
    superseded = total - int((places >= 0).sum())
    notes = identity.make_notes(data, images.per_image(digests))
    identity.write_notes(version, notes)
    files.write(
        version / version_lib.IMAGES,
        lambda path: strings.write(path, data.images),
    )
    arrays.write(version / kept.ROWS, kept.make(now, places, digests))
    readable = places >= 0
    training, _ = table.drop_lone(frame[readable], 1.0)
    described = _describe_training(training, root, data, notes, version)
    of_training = frame.index.isin(training.index)
    place = version / version_lib.TRAINING / version_lib.PLACES
    arrays.write(place, places[of_training])
    sizes = {path.name: path.stat().st_size for path in place.parent.iterdir()}
    if not superseded:  # TFDS reads all records of a file.
        tfds_files.describe(version, splits)
    parts = [
        dict(name=a.name, records=b.count, bytes=b.size, checksum=b.checksum)
        for a, b in zip(plan, made, strict=True)
    ]
    generations.write_record(
        version,
        rows=len(frame),
        max_pixels=options.max_pixels,
        shards=options.shards,
        **described,
        training=sizes,
        skipped=skipped,
        superseded=superseded,
        files=parts,
    )


def _check_unchanged(images: kept.Images, earlier: kept.Kept | None) -> None:
    """Checks that the images read have not changed since they were examined."""
    data, read = images.data, images.places
    if earlier is not None:
        read = read[earlier.new_rows()]
    read = np.unique(read[read >= 0])
    identity.check_unchanged(
        [data.files[place] for place in read.tolist()],
        np.stack([data.sizes[read], data.times[read]]),
    )


def _describe_training(
    training: pd.DataFrame,
    root: Path,
    data: identity.Data,
    notes: np.ndarray,
    version: Path,
) -> dict[str, Any]:
    """Writes the columns of the training rows; returns their description."""
    folder = version / version_lib.TRAINING
    folder.mkdir(exist_ok=True)
    columns = samples.from_frame(training)
    samples.write(folder, columns)
    own = identity.examine(training, root, data)
    if own is not data:
        at = pd.Index(data.images, dtype=object).get_indexer(own.images)
        notes = notes[at]
    return {
        "origin": identity.describe(data, own),
        "content": own.content(notes),
        "warnings": category_notes.notes(training, columns.category_ids),
    }


def _in_order(
    pool: Pool, queue: Iterator[tasks.Task | tasks.Result]
) -> Iterator[tasks.Result]:
    """Yields results in order, while a few more tasks are in progress."""
    pending: collections.deque = collections.deque()
    try:
        for task in queue:
            if isinstance(task, tasks.Result):
                future = Future()
                future.set_result(task)
            else:
                future = pool.executor.submit(shards.write, task)
            pending.append(future)
            if len(pending) > 2 * pool.number:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise PassingError(
            "A process preparing the data was killed, possibly because memory "
            "ran out. Run the same command again to continue, with fewer "
            "workers if it happens again."
        ) from error
