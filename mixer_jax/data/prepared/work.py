"""Plans the shards to write and the rows to keep from an earlier version."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.data.prepared import generations, kept, planning, tasks, writing
from mixer_jax.data.prepared import version as version_lib
from mixer_jax.runtime import identity

# Starting processes takes as long as decoding this many images in threads.
_FEW = 2000


class Work(NamedTuple):
    """The shards of a new version, and the inputs for writing them.

    Attributes:
      images: the images of the rows.
      now: the keys of the rows.
      earlier: the rows that an earlier version has.
      plan: the shards.
      pool: the threads or processes that write the shards.
    """

    images: kept.Images
    now: np.ndarray
    earlier: kept.Kept | None
    plan: list[tasks.Shard]
    pool: writing.Pool


@contextlib.contextmanager
def begin(
    frame: pd.DataFrame,
    data: identity.Data,
    group: Path,
    options: writing.Options,
) -> Iterator[Work]:
    """Plans a new version and starts the pool that writes it.

    Args:
      frame: rows of a sample table.
      data: their identity.
      group: the folder of the table's versions.
      options: how samples are prepared.
    """
    with contextlib.ExitStack() as stack:
        pool = None
        if not any(map(generations.is_version, group.iterdir())):
            # The processes start while this one reads the table.
            pool = stack.enter_context(writing.pool(options.workers))
        images = kept.Images(frame, data)
        sizes, _ = images.status()
        now = kept.keys(frame, sizes, options.max_pixels)
        earlier = stack.enter_context(_earlier(group, now, images))
        plan = _plan(frame, options, earlier)
        if pool is None:
            few = earlier is not None and len(earlier.new_rows()) <= _FEW
            workers = 0 if few else options.workers
            pool = stack.enter_context(writing.pool(workers))
        yield Work(images, now, earlier, plan, pool)


def _plan(
    frame: pd.DataFrame, options: writing.Options, earlier: kept.Kept | None
) -> list[tasks.Shard]:
    """Returns the shards of the frame."""
    ids = frame["sample_id"].to_numpy(object)
    splits = planning.split_names(frame)
    plan = planning.plan(splits, ids, options.shards)
    fixed = options.shards or options.compact
    return (
        plan if fixed or earlier is None else planning.supersede(plan, earlier)
    )


@contextlib.contextmanager
def _earlier(
    group: Path, now: np.ndarray, images: kept.Images
) -> Iterator[kept.Kept | None]:
    """Yields the rows kept from the newest earlier version of the group."""
    versions = filter(generations.is_version, group.iterdir())
    for folder in sorted(versions, key=_time, reverse=True):
        hold = generations.hold(folder)
        if hold is None:
            continue
        try:
            parts = version_lib.read_parts(folder)
            if parts is None:
                continue
            # An image with a new time may have the same bytes.
            digests = identity.kept_digests(folder, images.data)
            digests = images.per_row(digests)
            found = kept.find(folder, parts, now, digests)
            if found is not None:
                yield found
                return
        finally:
            hold.release()
    yield None


def _time(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
