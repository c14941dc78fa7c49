"""Prepares a table in several processes, which may run on several hosts.

Each process writes every n-th shard to a folder that all of them share. Process
0 then checks these shards and finishes the version, as after an interruption.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mixer_jax.data.prepared import build, opening, tasks, writing
from mixer_jax.data.tables import buckets, fetching, table
from mixer_jax.runtime import identity, paths, processes
from mixer_jax.runtime.errors import PassingError, UserError
from mixer_jax.runtime.ownership import sharing

_PATIENCE = 60.0  # seconds for another process to stop its threads


def copy_table(address: str, folder: str) -> tuple[str, str]:
    """See `buckets.copy_table`; all processes share the folder."""
    place, _ = processes.place()
    if place == 0:
        copied = buckets.copy_table(address, folder)
    processes.barrier("copied", processes.PATIENCE)
    return copied if place == 0 else buckets.copied_table(address, folder)


def open_table(
    path: str | os.PathLike,
    split: str,
    prepared: str | os.PathLike = "",
    *,
    options: build.Options,
) -> opening.Opened | None:
    """Opens the samples of a table; all processes prepare them if necessary.

    Args:
      path: a sample table, with the same content for all processes.
      split: the split.
      prepared: the folder for the files, which all processes share; see
        `build.prepare`.
      options: how samples are prepared; `workers` is per process.

    Returns:
      The samples; None in processes other than 0.

    Raises:
      UserError: if the processes have different tables or folders; see also
        `opening.open_table`.
    """
    place, count = processes.place()
    if count == 1:
        return opening.open_table(path, split, prepared, options=options)
    root = table.folder(path)
    if place == 0 and options.fetch_rate:
        frame = table.select(table.read_table(path, options.image_roots), split)
        fetching.fetch(frame["image"], root, options.fetch_rate, options.origin)
    processes.barrier("fetched", processes.PATIENCE)
    options = dataclasses.replace(options, fetch_rate=0.0)
    opened = None
    if place == 0:
        opened = opening.open_table(
            path, split, prepared, options=options, make=False
        )
    processes.barrier("looked up", processes.PATIENCE)
    if processes.gather("opened", opened is not None)[0]:
        return opened
    folder = Path(prepared) if prepared else root / build.FOLDER
    if place == 0:
        paths.make_folder(folder)
    processes.barrier("folder", processes.PATIENCE)
    sharing.check(
        folder,
        "The folder",
        "all processes write prepared data to it. Set --out to a folder on a "
        "network file system.",
    )
    if place == 0:
        return _lead(path, split, prepared, options, count)
    frame = table.select(table.read_table(path, options.image_roots), split)
    data = identity.examine(frame, root)
    processes.barrier("drafted", processes.PATIENCE)
    draft, wanted = processes.gather("draft", None)[0]
    if not draft:
        return None  # Another run finished first.
    if [data.key, options.max_pixels, options.shards] != wanted:
        raise UserError(
            f"{path} of process {place} differs from that of process 0 in its "
            "rows or the sizes of its images. Give all processes the same "
            "table, images and options."
        )
    part, draft = slice(place, None, count), writing.Draft(*draft)
    with _listening():
        build.write_part(frame, root, prepared, data, draft, part, options)
    processes.barrier("shards", processes.PATIENCE)
    return None


@contextlib.contextmanager
def _listening() -> Iterator[None]:
    """Waits for a failed process to end this one with its error message."""
    try:
        yield
    except tasks.StoppedError as error:
        time.sleep(_PATIENCE)  # until the failed process ends this one
        raise PassingError(
            "Another process preparing the data has stopped. Run the same "
            "command again to continue."
        ) from error


def _lead(
    path: str | os.PathLike,
    split: str,
    prepared: str | os.PathLike,
    options: build.Options,
    count: int,
) -> opening.Opened | None:
    """Opens the samples in process 0, with the help of the others."""
    begun = []

    def begin(draft: writing.Draft, key: str) -> None:
        begun.append(draft)
        wanted = [key, options.max_pixels, options.shards]
        processes.barrier("drafted", processes.PATIENCE)
        processes.gather("draft", [draft, wanted])

    peers = writing.Peers(
        part=slice(0, None, count),
        begin=begin,
        wait=lambda: processes.barrier("shards", processes.PATIENCE),
    )
    with _listening():
        opened = opening.open_table(
            path, split, prepared, options=options, peers=peers
        )
    if not begun:  # Do not keep the others waiting.
        processes.barrier("drafted", processes.PATIENCE)
        processes.gather("draft", [None, []])
    return opened
