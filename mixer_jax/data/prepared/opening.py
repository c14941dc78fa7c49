"""Opens the prepared samples of a table without reading the table, if possible.

The first start after a change reads the whole table, prepares its samples and
records the state of the table's files beside them. While these files and the
images keep their sizes and times, later starts read neither: they only compare
sizes and times, and map the prepared columns into memory.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mixer_jax.data.images import checking, faults
from mixer_jax.data.prepared import build, generations, writing
from mixer_jax.data.prepared import version as version_lib
from mixer_jax.data.prepared.version import Prepared
from mixer_jax.data.tables import fetching, table
from mixer_jax.runtime import arrays, files, identity, progress
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import NewerFormatError
from mixer_jax.runtime.tabular import addresses, references, strings, tables
from mixer_jax.runtime.tabular import parts as parts_lib

RECORD = "opened.json"

_CHUNK = 1 << 11  # images whose sizes and times are looked up together
_SLOW = 5e-5  # seconds per image, as on a network file system
_THREADS = 32  # on slow file systems
# A file modified this recently could change again with the same timestamp.
_SETTLED = 2 * 10**9  # nanoseconds
_DEFAULT = build.Options()


class Opened(NamedTuple):
    """The prepared samples of a split, and those that were left out.

    Attributes:
      prepared: the samples.
      unreadable: the samples whose images cannot be decoded.
      lone: the samples that are alone in their category.
      listed: a CSV text that lists the unreadable images; "" if there are none.
    """

    prepared: Prepared
    unreadable: table.Skipped
    lone: table.Skipped
    listed: str


def open_table(
    path: str | os.PathLike,
    split: str,
    prepared: str | os.PathLike = "",
    *,
    options: build.Options = _DEFAULT,
    make: bool = True,
    say: build.Say | None = None,
    peers: writing.Peers | None = None,
) -> Opened | None:
    """Opens the samples of a table's split; prepares them if necessary.

    Args:
      path: a sample table; see `table.read_table`.
      split: the split; see `table.select`.
      prepared: the folder for the files; see `build.prepare`.
      options: how samples are prepared.
      make: whether to prepare them; otherwise, returns None if they have not
        been prepared.
      say: called with messages; prints to standard error by default.
      peers: see `build.prepare`.

    Raises:
      UserError: if the table is invalid; see also `build.prepare`.
    """
    root = table.folder(path)
    place = Path(prepared) if prepared else root / build.FOLDER
    begin = time.time_ns()
    state = _state(path, split) | {"image_roots": options.image_roots}
    opened = _find_unchanged(place, root, state, options)
    if opened is not None and not (
        options.fetch_rate and _has_failed(opened, options.origin)
    ):
        return opened
    frame = table.select(table.read_table(path, options.image_roots), split)
    if options.fetch_rate:
        fetching.fetch(frame["image"], root, options.fetch_rate, options.origin)
    settings = {"data": identity.examine(frame, root), "options": options}
    if make:
        made = build.prepare(
            frame, root, prepared, **settings, say=say, peers=peers
        )
    else:
        made = build.find(frame, root, prepared, **settings)
    if made is None:
        return None
    opened = _describe(made, frame, root)
    settled = all(time < begin - _SETTLED for *_, time in state["files"])
    with contextlib.suppress(OSError):  # Possibly read-only.
        _record(opened, state if settled else {})
    return opened


def _has_failed(opened: Opened, origin: str) -> bool:
    """Returns whether images could not be fetched."""
    return any(
        (origin or addresses.split(fault.image)[1])
        and fault.kind == faults.MISSING
        for fault in opened.prepared.skipped
    )


def _state(path: str | os.PathLike, split: str) -> dict[str, Any]:
    """Returns a description that identifies the content of a table's split."""
    parts = parts_lib.find(Path(path))
    names = [os.path.relpath(part, path) for part in parts]
    status = identity.stat(parts).T.tolist()
    return {
        "path": os.path.abspath(path),  # Recorded messages contain paths.
        "split": split,
        "files": [[a, *b] for a, b in zip(names, status, strict=True)],
    }


def _find_unchanged(
    place: Path, root: Path, state: dict[str, Any], options: build.Options
) -> Opened | None:
    """Returns the samples opened in this state of the table, if any."""
    for folder in _versions(place):
        recorded = _read(folder)
        if recorded.get("table") != state:
            continue
        hold = generations.hold(folder)
        if hold is None:
            continue
        # Any problem is reported when the table itself is read.
        errors = (OSError, ValueError, TypeError, KeyError, NewerFormatError)
        with contextlib.suppress(*errors):
            manifest = generations.read_record(folder)
            if (
                manifest["max_pixels"] == options.max_pixels
                and options.shards in (0, manifest["shards"])
                and not (options.compact and manifest["superseded"])
                and _same_images(folder, root)
            ):
                prepared = version_lib.read(folder, hold, manifest)
                limit = options.max_pixels
                if not version_lib.newly_readable(
                    prepared.skipped, root, limit
                ):
                    return _opened(prepared, folder, recorded)
        hold.release()
    return None


def _opened(
    prepared: Prepared, folder: Path, recorded: dict[str, Any]
) -> Opened:
    """Returns the samples of an unchanged table from their record."""
    unreadable, lone = (
        table.Skipped(**one | {"examples": tuple(one["examples"])})
        for one in recorded["skipped"]
    )
    listed = ""
    if unreadable.count:
        listed = (folder / version_lib.SKIPPED).read_text(encoding="utf-8")
    prepared = prepared._replace(owned=recorded["owned"])
    return Opened(prepared, unreadable, lone, listed)


def _versions(place: Path) -> Iterator[Path]:
    """Yields the folders of all finished versions of all tables."""
    for group in build.names(place):
        for name in build.names(place / group):
            if generations.is_version(place / group / name):
                yield place / group / name


def _read(folder: Path) -> dict[str, Any]:
    """Returns the record written by `_record` to a version; {} if none."""
    with contextlib.suppress(OSError, ValueError):
        recorded = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if isinstance(recorded, dict):
            return recorded
    return {}


def _record(opened: Opened, state: dict[str, Any]) -> None:
    """Records the state of the table for which a version was opened."""
    folder = opened.prepared.folder
    if opened.listed:
        files.write_text(folder / version_lib.SKIPPED, opened.listed)
    skipped = [opened.unreadable, opened.lone]
    recorded = {
        "table": state,
        "owned": opened.prepared.owned,
        "skipped": [dataclasses.asdict(one) for one in skipped],
    }
    text = json.dumps(recorded)
    if json.loads(text) != _read(folder):
        files.write_text(folder / RECORD, f"{text}\n")


def _describe(prepared: Prepared, frame: pd.DataFrame, root: Path) -> Opened:
    """Describes the rows left out of a table."""
    found = prepared.errors(root, frame["image"])
    kept, unreadable, listed = checking.leave_out(frame, root, *found)
    _, lone = table.drop_lone(kept, 1.0)
    text = tables.csv_text(listed) if unreadable.count else ""
    return Opened(prepared, unreadable, lone, text)


def _same_images(folder: Path, root: Path) -> bool:
    """Returns whether all images have the recorded sizes and times."""
    names = strings.Strings(folder / version_lib.IMAGES)
    notes = arrays.read(folder / identity.NOTES, mapped=True)

    def is_same(start: int) -> bool:
        part = slice(start, start + _CHUNK)
        paths = references.files(names[part], root)
        sizes, times = identity.stat(paths)
        noted = notes[part]
        return len(noted) == len(paths) and bool(
            ((sizes == noted["size"]) & (times == noted["time"])).all()
        )

    starts = range(0, len(names), _CHUNK)
    begin = time.perf_counter()
    if not all(map(is_same, starts[:1])):
        return False
    seconds = (time.perf_counter() - begin) / _CHUNK
    # On a local disk, more threads would only wait for each other.
    with (
        threads_lib.pool(_THREADS if seconds > _SLOW else 1) as pool,
        progress.show("Looking up the images", len(names)) as count,
    ):
        same = pool.map(is_same, starts)
        for start, one in zip(starts, same, strict=True):
            if not one:
                return False
            count(min(_CHUNK, len(names) - start))
    return len(names) == len(notes)
