"""Shards of a prepared data set, each written and checked independently.

A shard's bytes depend only on its rows. The result is therefore the same for
any number of threads or processes, and after any interruption.
Shards that are unchanged, or have few superseded records, are reused from an
earlier version. Other shards copy the records that it already has, without
decoding their images again.
"""

import contextlib
import dataclasses
import gc
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mixer_jax.data.prepared import content as content_lib
from mixer_jax.data.prepared import records, tasks
from mixer_jax.data.prepared.tasks import Fault, Result, Shard, Task
from mixer_jax.runtime import files, paths


def clear(plan: Sequence[Shard], folder: Path, results: Path) -> None:
    """Removes files of an interrupted run that are not in the plan."""
    tasks.allow(results)
    names = {shard.name for shard in plan}
    for path in folder.iterdir():
        if path.name not in names:
            # A process about to exit may have renamed it.
            path.unlink(missing_ok=True)


def prepare_process() -> None:
    """Loads this module in a new process, before the first task is ready."""
    # Exclude the imported modules' objects from garbage collection.
    gc.freeze()


def write(task: Task) -> Result:
    """Writes a shard, unless an interrupted run has already finished it.

    Raises:
      OSError: if the disk is full or cannot be written to.
      StoppedError: if `tasks.stop` has been called.
    """
    path = task.folder / task.shard.name
    result_path = task.results / f"{task.shard.name}.json"
    if (result := _finished(path, result_path, task)) is not None:
        return result
    result = _take_over(task, path) or _write_new(task, path)
    if task.shard.linked:
        return result  # Not saved: linking again is faster.
    plain = dataclasses.asdict(result) | {
        "digests": result.digests.tobytes().hex(),
        "key": task.key,
    }
    # Not synced to disk: `_finished` detects data lost in a power failure.
    writer = files.text_writer(json.dumps(plain))
    files.write(result_path, writer, one_of_many=True)
    return result


def _write_new(task: Task, path: Path) -> Result:
    """Writes the file of a shard."""
    # A process of an interrupted run may still be writing this shard.
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    where = paths.plain(draft.parent) / draft.name
    content = content_lib.Content(task)
    count = records.write(where, content.records())
    draft.rename(path)
    return Result(
        count=count,
        size=path.stat().st_size,
        checksum=content.checksum(),
        digests=content.digests(),
        faults=tuple(content.faults),
    )


def _finished(path: Path, result_path: Path, task: Task) -> Result | None:
    """Returns the result of a finished shard whose file is undamaged."""
    try:
        plain = json.loads(result_path.read_text())
        if plain.pop("key") != task.key:
            return None  # Same name, but different rows or images.
        digests = np.frombuffer(bytes.fromhex(plain["digests"]), np.uint8)
        plain["digests"] = digests.reshape(-1, 16)
        plain["faults"] = tuple(Fault(*fault) for fault in plain["faults"])
        result = Result(**plain)
        if path.stat().st_size == result.size and (
            task.checked or _checksum(path, result.count) == result.checksum
        ):
            return result
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def link(
    shard: Shard, folder: Path, earlier: tasks.Earlier | None
) -> Result | None:
    """Links the file of an earlier version, if it has a shard's rows.

    Args:
      shard: the shard.
      folder: the folder of the new file.
      earlier: the rows that the earlier version has.

    Returns:
      None if the file does not fit or may be damaged, or if the file system has
      no hard links.
    """
    fitting = _fitting(shard, earlier)
    # Checking sizes and times is enough, as it is when opening a version.
    if fitting is None or not fitting[0].unmodified:
        return None
    path = folder / shard.name
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(fitting[0].filename, path)
        return _taken(path, earlier, *fitting)
    return None


def _fitting(
    shard: Shard, earlier: tasks.Earlier | None
) -> tuple[records.Part, tuple[int, ...]] | None:
    """Returns the file with a shard's rows, and their record numbers."""
    if earlier is None:
        return None
    if (part := earlier.same_part()) is not None:
        return part, ()
    found = earlier.only_part() if shard.linked else None
    return found and (found[0], tuple(found[1].tolist()))


def _taken(
    path: Path,
    earlier: tasks.Earlier,
    part: records.Part,
    places: tuple[int, ...],
) -> Result:
    return Result(
        count=part.examples_in_shard,
        size=path.stat().st_size,
        checksum=part.checksum,
        digests=earlier.digests,
        faults=(),
        places=places,
    )


def _take_over(task: Task, path: Path) -> Result | None:
    """Links or copies an undamaged file of the earlier version, if one fits."""
    fitting = _fitting(task.shard, task.earlier)
    if fitting is None:
        return None
    old, _ = fitting
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # The old file may be damaged.
        try:
            os.link(old.filename, path)
        except OSError:  # Some file systems have no hard links.
            shutil.copyfile(old.filename, path)
        if _checksum(path, old.examples_in_shard) == old.checksum:
            return _taken(path, task.earlier, *fitting)
    path.unlink(missing_ok=True)
    return None


def _checksum(path: Path, count: int) -> str:
    """Returns the checksum of a file's records; "" if it is damaged."""
    # array_record and protobuf raise many types of errors.
    with contextlib.suppress(Exception):
        return records.read_checksum(path, count)
    return ""
