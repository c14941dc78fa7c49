"""Beam pipeline: click events -> exposures and clicks of each pair.

    files -> events -> pairs -> join with queries -> join with items -> tables

The same steps run in this process and on a cluster. No step depends on the
order of events, so the result depends on neither the runner nor the number of
workers.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsDict, PCollection, TaggedOutput

from mixer_jax.categories.clicks import event_counts, events
from mixer_jax.categories.clicks.event_counts import Counts
from mixer_jax.runtime.errors import UserError

LISTED = 10  # maximum number of bad rows, broken files or unknown IDs listed
CLICKS, LATER, SAID = "clicks", "clicks_later", "said"
SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("item_id", pa.string()),
        ("exposures", pa.int64()),
        ("clicks", pa.int64()),
    ]
)
# The kinds of input files: events, and IDs of one role (role -> ID column).
_EVENTS, _ROLES = "events", {"queries": "query_id", "items": "item_id"}
# Tags of step outputs: the main output; (name, number) pairs, summed by name;
# (name, value) pairs, with only the first few values per name listed.
_MAIN, _COUNT, _LIST = "main", "count", "list"


@dataclasses.dataclass(frozen=True)
class Job:
    """An aggregation job.

    Attributes:
      files: the event files; every worker must be able to reach them.
      queries, items: the files with known query and item IDs, likewise.
      parts: the folder that the workers write to, likewise.
      until: microseconds since 1970; events from this time on are set aside.
      longest_session: maximum number of events in a session; longer sessions
        are left out.
    """

    files: tuple[str, ...]
    queries: tuple[str, ...]
    items: tuple[str, ...]
    parts: str
    until: int | None = None
    longest_session: int | None = None


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Adds the steps of a job to a pipeline.

    The steps write to `job.parts`: tables `clicks-*.parquet` and
    `clicks_later-*.parquet` of `SCHEMA`, with unique pairs, and `said-*.json`,
    lines of `[name, value]`. A value is either a number, omitted if 0:
    bad_rows, copies, events_of_long_sessions, events_of_unknown_queries,
    events_of_unknown_items, clicks_exposures, clicks_clicks,
    clicks_later_exposures, clicks_later_clicks; or a list, omitted if empty:
    broken_files, bad_row_list, unknown_queries, unknown_items.
    """
    files = [(_EVENTS, path) for path in job.files]
    files += [("queries", path) for path in job.queries]
    files += [("items", path) for path in job.items]
    parts = (
        pipeline
        | "Files" >> beam.Create(files)
        | "Split files" >> beam.FlatMap(_parts).with_outputs(_LIST, main=_MAIN)
    )
    read = (
        parts[_MAIN]
        | "Spread over workers" >> beam.Reshuffle()
        | "Read"
        >> beam.FlatMap(_read).with_outputs(
            *_ROLES, _COUNT, _LIST, main=_EVENTS
        )
    )
    kept, counts, lists = read[_EVENTS], [read[_COUNT]], []
    lists += [parts[_LIST], read[_LIST]]
    if job.longest_session is not None:
        kept, dropped = _drop_long_sessions(kept, job.longest_session)
        counts.append(dropped)
    counted = (
        kept
        | "By pair" >> beam.Map(_by_pair)
        | "Count events" >> beam.CombinePerKey(_CountEvents(job.until))
        | "By query" >> beam.FlatMap(_by_query).with_outputs(_COUNT, main=_MAIN)
    )
    pairs = counted[_MAIN]
    counts.append(counted[_COUNT])
    for role in _ROLES:
        joined = (
            {"known": read[role], "pairs": pairs}
            | f"Join with {role}" >> beam.CoGroupByKey()
            | f"Keep known {role}"
            >> beam.FlatMap(_known, role).with_outputs(
                _COUNT, _LIST, main=_MAIN
            )
        )
        pairs = joined[_MAIN]
        counts.append(joined[_COUNT])
        lists.append(joined[_LIST])
    tables = pairs | "Rows" >> beam.FlatMap(_rows).with_outputs(
        LATER, _COUNT, main=CLICKS
    )
    counts.append(tables[_COUNT])
    for name in (CLICKS, LATER):
        tables[name] | f"Write {name}" >> beam.io.WriteToParquet(
            f"{job.parts}/{name}", SCHEMA, file_name_suffix=".parquet"
        )
    sums = (
        counts | "Counts" >> beam.Flatten() | "Sums" >> beam.CombinePerKey(sum)
    )
    listed = (
        lists
        | "Lists" >> beam.Flatten()
        | "Keep the first" >> beam.combiners.Top.PerKey(LISTED, reverse=True)
    )
    (
        [sums, listed]
        | "Counts and lists" >> beam.Flatten()
        | "As JSON" >> beam.Map(json.dumps)
        | "Write counts and lists"
        >> beam.io.WriteToText(f"{job.parts}/{SAID}", file_name_suffix=".json")
    )


class _CountEvents(event_counts.Counter, beam.CombineFn):
    """Counts events in parts on the workers, and merges the parts."""


def _parts(file: tuple[str, str]) -> Iterator[Any]:
    """Yields the parts of a file, or the reason why it cannot be read."""
    kind, path = file
    try:
        with _open(path) as opened:
            groups = events.row_groups(path, opened)
    except (UserError, OSError) as error:
        yield _broken(path, error)
        return
    for group in groups:
        yield kind, path, group


def _read(part: tuple[str, str, int]) -> Iterator[Any]:
    """Yields the events or IDs in a part of a file, and any errors in it."""
    kind, path, group = part
    columns = events.COLUMNS if kind == _EVENTS else (_ROLES[kind],)
    try:
        with _open(path) as file:
            for row, cells in events.read(path, file, group, columns):
                if isinstance(cells, str):
                    problem = cells
                else:
                    try:
                        yield _value(kind, cells)
                        continue
                    except ValueError as error:
                        problem = str(error)
                # Bad rows in ID tables are reported when the log is read.
                if kind == _EVENTS:
                    yield TaggedOutput(_COUNT, ("bad_rows", 1))
                    listed = ("bad_row_list", (path, row, problem))
                    yield TaggedOutput(_LIST, listed)
    except (UserError, OSError) as error:
        yield _broken(path, error)


def _value(kind: str, cells: list[Any]) -> Any:
    if kind == _EVENTS:
        return events.parse(cells)
    return TaggedOutput(kind, (events.identity(cells[0], _ROLES[kind]), None))


def _open(path: str) -> BinaryIO:
    # By default, Beam decompresses files itself and accepts truncated ones.
    kind = CompressionTypes.UNCOMPRESSED
    return FileSystems.open(path, compression_type=kind)


def _broken(path: str, error: Exception) -> TaggedOutput:
    message = str(error)
    if not isinstance(error, UserError):
        message = f"{path} cannot be opened: {error}"
    return TaggedOutput(_LIST, ("broken_files", (message,)))


def _drop_long_sessions(
    read: PCollection, longest: int
) -> tuple[PCollection, PCollection]:
    """Returns the events from people, and the number of events from bots.

    Sessions with more than `longest` events are attributed to bots.
    """
    long = (
        read
        | "Keep sessions" >> beam.Filter(lambda event: bool(event[4]))
        | "By session" >> beam.Map(lambda event: (event[4], 1))
        | "Session lengths" >> beam.CombinePerKey(sum)
        | "Long sessions" >> beam.Filter(lambda pair: pair[1] > longest)
    )

    def from_people(event: events.Event, long: dict[str, int]) -> Iterator[Any]:
        if event[4] in long:
            yield TaggedOutput(_COUNT, ("events_of_long_sessions", 1))
        else:
            yield event

    kept = read | "Drop long sessions" >> beam.FlatMap(
        from_people, AsDict(long)
    ).with_outputs(_COUNT, main=_MAIN)
    return kept[_MAIN], kept[_COUNT]


def _by_pair(event: events.Event) -> tuple[tuple[str, str], event_counts.Seen]:
    query, item, time, clicked, session = event
    return (query, item), (session, time, clicked)


def _by_query(pair: tuple[tuple[str, str], Counts]) -> Iterator[Any]:
    (query, item), counts = pair
    yield query, (item, counts)
    if counts[4]:
        yield TaggedOutput(_COUNT, ("copies", counts[4]))


def _known(group: tuple[str, dict[str, Iterable]], role: str) -> Iterator[Any]:
    """Yields the pairs of a known ID, keyed by the other ID."""
    key, joined = group
    if any(True for _ in joined["known"]):
        for other, counts in joined["pairs"]:
            yield other, (key, counts)
        return
    count = sum(counts[0] + counts[2] for _, counts in joined["pairs"])
    yield TaggedOutput(_COUNT, (f"events_of_unknown_{role}", count))
    # Negate the count, so that the IDs with the most events come first.
    yield TaggedOutput(_LIST, (f"unknown_{role}", (-count, key)))


def _rows(pair: tuple[str, tuple[str, Counts]]) -> Iterator[Any]:
    """Yields the table rows of a pair, and their counts."""
    query, (item, counts) = pair
    for table, exposures, clicks in (
        (CLICKS, *counts[:2]),
        (LATER, *counts[2:4]),
    ):
        if not exposures:
            continue
        values = (query, item, exposures, clicks)
        row = dict(zip(SCHEMA.names, values, strict=True))
        yield row if table == CLICKS else TaggedOutput(table, row)
        yield TaggedOutput(_COUNT, (f"{table}_exposures", exposures))
        yield TaggedOutput(_COUNT, (f"{table}_clicks", clicks))
