"""Reads the folder in which the service records searches and clicks.

    EVENTS/events-20260131-HOST-PID-1.jsonl   see `events`
    EVENTS/pictures/QUERY_ID.jpg              the pictures of queries

A query's ID is the digest of its picture, followed by its box if it has one.
The events of one folder fit into the memory of one machine; `gathering` counts
those of larger logs.
"""

import collections
import io
import os
import pathlib
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

import pandas as pd

from mixer_jax.categories.clicks import event_counts, events
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import boxes

QUERY = r"[0-9a-f]{32}(?:_[0-9]{1,9}){0,4}"
PICTURES = "pictures"
QUERY_COLUMNS = ("query_id", "image", *boxes.COLUMNS)
CLICK_COLUMNS = ("query_id", "item_id", "exposures", "clicks")


class Recorded(NamedTuple):
    """The queries and clicks that a service has recorded.

    Attributes:
      queries: `QUERY_COLUMNS`; images are relative to the folder.
      clicks: query_id, item_id, exposures and clicks of each pair.
      left_out: the number of events left out, by reason.
    """

    queries: pd.DataFrame
    clicks: pd.DataFrame
    left_out: collections.Counter


def exists(folder: str | os.PathLike) -> bool:
    """Returns whether a service has recorded events in a folder."""
    return (pathlib.Path(folder) / PICTURES).is_dir()


def read(folder: str | os.PathLike, item_ids: Collection[str]) -> Recorded:
    """Counts the events of a folder, even while a service writes to it.

    An exposure and its click count as one exposure. Events of unknown items or
    of missing pictures are left out, as are incomplete or damaged lines.

    Args:
      folder: the folder that the service writes to.
      item_ids: the IDs of the catalog.

    Raises:
      UserError: if there is no such folder, or a file cannot be read.
    """
    folder = pathlib.Path(folder)
    if not exists(folder):
        raise UserError(
            f"No events were recorded in {folder}; start the service with "
            f"--events={folder}."
        )
    pictures = {path.stem: path for path in list_pictures(folder / PICTURES)}
    counts, left_out = _count(folder, pictures, set(item_ids))
    rows = sorted((*pair, *count[:2]) for pair, count in counts.items())
    used = sorted({query for query, _ in counts})
    return Recorded(
        pd.DataFrame(
            [query_row(pictures[query]) for query in used],
            columns=QUERY_COLUMNS,
        ),
        pd.DataFrame(rows, columns=CLICK_COLUMNS),
        left_out,
    )


def _count(
    folder: pathlib.Path, queries: Collection[str], items: Collection[str]
) -> tuple[dict[tuple[str, str], event_counts.Counts], collections.Counter]:
    """Returns the counts per pair, and the numbers of events left out."""
    left_out: collections.Counter = collections.Counter()
    counter = event_counts.Counter(None)
    parts: dict[tuple[str, str], event_counts.Part] = {}
    for query, item, moment, clicked, session in _events(folder, left_out):
        if query not in queries:
            left_out["without a picture"] += 1
        elif item not in items:
            left_out["with unknown items"] += 1
        else:
            pair = (query, item)
            part = parts.get(pair) or counter.create_accumulator()
            parts[pair] = counter.add_input(part, (session, moment, clicked))
    counts = {pair: counter.extract_output(parts[pair]) for pair in parts}
    return counts, left_out


def list_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pictures of queries in their folder, sorted."""
    found = (p for p in folder.iterdir() if re.fullmatch(QUERY, p.stem))
    return sorted(found)


def query_row(picture: pathlib.Path) -> tuple[str, ...]:
    """Returns the cells of `QUERY_COLUMNS` for a picture of a query."""
    box = picture.stem.split("_")[1:] or [""] * len(boxes.COLUMNS)
    return picture.stem, f"{PICTURES}/{picture.name}", *box


def _events(
    folder: pathlib.Path, left_out: collections.Counter
) -> Iterator[events.Event]:
    for path in sorted(folder.glob("events-*.jsonl")):
        try:
            content = io.BytesIO(path.read_bytes())  # at most 64 MB
        except FileNotFoundError:  # The service removes old files.
            continue
        except IsADirectoryError as error:
            raise UserError(
                f"{path} is a folder instead of a file of events; remove it."
            ) from error
        for _, cells in events.read(str(path), content):
            try:
                if isinstance(cells, str):  # may still be being written
                    raise ValueError(cells)
                yield events.parse(cells)
            except ValueError:
                left_out["incomplete or damaged"] += 1
