"""Writes all files of a new version of a prepared data set."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixer_jax.data.images import memory
from mixer_jax.data.prepared import (
    generations,
    kept,
    shards,
    tfds_files,
)
from mixer_jax.data.prepared import version as version_lib
from mixer_jax.data.tables import category_notes, samples, table
from mixer_jax.runtime import arrays, files, identity, progress
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import PassingError
from mixer_jax.runtime.tabular import strings


@dataclasses.dataclass(frozen=True)
class Options:
    """How samples are prepared.

    Attributes:
      max_pixels: see `decoding.decode`.
      shards: the number of files per split; 0 to derive it from the rows.
      workers: the number of processes that decode; 0 for one thread per core.
    """

    max_pixels: int = memory.MAX_PIXELS
    shards: int = 0
    workers: int = 0


def write(
    frame: pd.DataFrame,
    root: Path,
    data: identity.Data,
    plan: Sequence[shards.Shard],
    now: np.ndarray,
    version: Path,
    results: Path,
    earlier: kept.Kept | None,
    options: Options,
) -> list[shards.Result]:
    """Writes all shards that are not finished yet; shows the progress.

    Args:
      frame: rows of a sample table.
      root: the folder that the image paths are relative to.
      data: the identity of the rows.
      plan: the shards.
      now: the keys of the rows; see `kept.keys`.
      version: the folder of the new version.
      results: the folder of the finished shards' results.
      earlier: rows that are kept from an earlier version.
      options: how samples are prepared.

    Raises:
      OSError: if the disk is full or cannot be written to.
      PassingError: if a worker process was killed.
    """
    images = frame["image"].to_numpy(object)
    status = kept.status(frame, data)
    texts = {name: frame[name].to_numpy(object) for name in shards.TEXTS}

    def tasks() -> Iterator[shards.Task]:
        for shard in plan:
            yield shards.Task(
                shard=shard,
                folder=version / tfds_files.FOLDER,
                results=results,
                root=root,
                images=images[shard.rows].tolist(),
                status=status[:, shard.rows],
                texts={k: v[shard.rows].tolist() for k, v in texts.items()},
                max_pixels=options.max_pixels,
                key=hashlib.sha256(now[shard.rows].tobytes()).hexdigest(),
                earlier=earlier.for_shard(shard) if earlier else None,
            )

    workers = options.workers
    number = workers or os.cpu_count() or 1
    kind = threads_lib.process_pool if workers else threads_lib.pool
    made, total = [], len(frame)
    shards.clear(plan, version / tfds_files.FOLDER, results)
    with kind(number) as pool:
        try:
            with progress.show("Preparing the samples", total) as count:
                for result in _in_order(pool, tasks(), 2 * number):
                    made.append(result)
                    count(len(result.digests))
        except BaseException:
            shards.stop(results)  # The pool waits for its tasks.
            raise
    return made


def describe(
    frame: pd.DataFrame,
    root: Path,
    data: identity.Data,
    plan: Sequence[shards.Shard],
    made: Sequence[shards.Result],
    now: np.ndarray,
    version: Path,
    options: Options,
) -> None:
    """Writes the files that describe the shards, the manifest last.

    Args:
      frame: all rows of a split of a sample table.
      root: the folder that the image paths are relative to.
      data: the identity of the rows.
      plan: the shards.
      made: their results.
      now: the keys of the rows; see `kept.keys`.
      version: the folder of the new version.
      options: how samples are prepared.

    Raises:
      PassingError: if an image has changed since `data` was examined.
    """
    identity.check_unchanged(data.files, np.stack([data.sizes, data.times]))
    skipped = sorted(fault for one in made for fault in one.faults)
    places = np.full(len(frame), -1, np.int64)
    digests = np.zeros((len(frame), 16), np.uint8)
    splits: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    left_out = {fault.row for fault in skipped}
    total = 0
    for shard, result in zip(plan, made, strict=True):
        rows = [row for row in shard.rows.tolist() if row not in left_out]
        places[rows] = total + np.arange(len(rows))
        digests[shard.rows] = result.digests
        total += result.count
        splits[shard.split].append((result.count, result.size))
    codes, _ = pd.factorize(frame["image"].where(frame["image"] != ""))
    of_images = np.zeros((len(data.images), 16), np.uint8)
    known = (codes >= 0) & digests.any(1)
    of_images[codes[known]] = digests[known]
    notes = identity.make_notes(data, of_images)
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
    with threads_lib.pool() as pool:
        names = [version / tfds_files.FOLDER / shard.name for shard in plan]
        for _ in pool.map(files.settle, names):
            pass
    tfds_files.describe(version, splits)
    parts = [
        dict(name=a.name, records=b.count, bytes=b.size, sha256=b.checksum)
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
        files=parts,
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
    return {
        "origin": identity.describe(data, own),
        "content": own.content(identity.compare_notes(notes, own).notes),
        "warnings": category_notes.notes(training, columns.category_ids),
    }


def _in_order(
    pool: Executor, tasks: Iterator[shards.Task], ahead: int
) -> Iterator[shards.Result]:
    """Yields results in order, with up to `ahead` tasks in progress."""
    pending: collections.deque = collections.deque()
    try:
        for task in tasks:
            pending.append(pool.submit(shards.write, task))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise PassingError(
            "A process that prepares the data was killed, possibly because "
            "the memory is full. Run the same command again to continue, with "
            "fewer --workers if it happens again."
        ) from error
