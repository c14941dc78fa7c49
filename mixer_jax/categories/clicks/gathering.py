"""Runs the Beam pipeline of click events and merges its output."""

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.internal import cloudpickle
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    StandardOptions,
)

from mixer_jax.categories.clicks import beam_pipeline, event_counts, events
from mixer_jax.runtime import errors, results, text
from mixer_jax.runtime import files as files_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import guards, replacing
from mixer_jax.runtime.tabular import parts as parts_lib
from mixer_jax.runtime.tabular import tables

# The default runner. It runs --direct_num_workers workers in this process;
# Beam's own default would download a program.
_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_ORDER = [("query_id", "ascending"), ("item_id", "ascending")]


def aggregate(
    files: Sequence[str],
    out: str | os.PathLike,
    *,
    queries: str = "",
    items: str = "",
    parts: str = "",
    until: int | None = None,
    longest_session: int | None = None,
    max_skipped: float = 0.01,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the clicks table of a click log.

    Args:
      files: names or patterns of event files on any file system that Beam
        supports; the name of an existing file is taken literally.
      out: the click log's folder, on this machine.
      queries: the table of queries; "" for the one in `out`.
      items: the table of items, likewise.
      parts: folder for the workers' parts, which are removed; "" for `out`.
      until: microseconds since 1970; events from this time on go into a
        separate table. None puts all events into one.
      longest_session: maximum number of events in a session; longer sessions
        are attributed to programs and left out. None for no limit.
      max_skipped: maximum share of events that are bad rows, and maximum share
        of events with unknown IDs.
      options: options for the Beam pipeline.

    Returns:
      The counts, as in aggregate.json.

    Raises:
      UserError: if a file is missing or damaged, or too much is left out.
    """
    out = Path(out)
    for name in ("clicks.csv", "clicks.parquet", "clicks_later.parquet"):
        there = out / name  # existing Parquet files are replaced
        if there.is_dir() or (there.suffix == ".csv" and there.exists()):
            raise UserError(
                f"{there} already exists, but a click log has only one table "
                "of clicks; move it, or choose another folder with --out."
            )
    matched = match(files)
    replacing.check_inputs(
        [out / "clicks.parquet", out / "clicks_later.parquet"],
        [("--events", path) for path in matched],
    )
    place = f"{parts.rstrip('/') or out}/parts-{secrets.token_hex(4)}"
    _check_place(place)
    job = beam_pipeline.Job(
        files=matched,
        queries=_files(queries or _table(out, "queries")),
        items=_files(items or _table(out, "items")),
        parts=place,
        until=until,
        longest_session=longest_session,
    )
    try:
        _run(job, options)
        figures = _figures(place)
        clicks = _gather(place, beam_pipeline.CLICKS)
        later = _gather(place, beam_pipeline.LATER)
    finally:
        if FileSystems.exists(place):
            FileSystems.delete([place])
    check(figures, max_skipped)
    if not len(clicks):
        raise UserError(
            "No events remain for the clicks table"
            + (": all are later than --until." if len(later) else ".")
        )
    report = {
        "files": len(job.files),
        "until_microseconds": until,
        "clicks_pairs": len(clicks),
        "clicks_later_pairs": len(later),
        **{name: figures[name] for name in _COUNTS},
        "bad_row_list": _bad_rows(figures),
        "unknown_list": _unknown(figures),
    }
    written = {"clicks.parquet": clicks}
    if until is not None:
        written["clicks_later.parquet"] = later
    writers = {
        name: tables.writer(table, out / name)
        for name, table in written.items()
    }
    content = json.dumps(report, indent=2) + "\n"
    writers["aggregate.json"] = files_lib.text_writer(content)
    with guards.locked(out):
        results.deliver_all(out, writers, "The clicks table")
        if until is None:
            (out / "clicks_later.parquet").unlink(missing_ok=True)
    return report


def match(patterns: Sequence[str]) -> tuple[str, ...]:
    """Returns the event files that match names or patterns, sorted and unique.

    Raises:
      UserError: if a pattern matches no file, or a file has an unknown suffix.
    """
    files = set()
    for pattern in patterns:
        try:
            if FileSystems.exists(pattern):
                files.add(pattern)
                continue
            (result,) = FileSystems.match([pattern])
        except (beam.io.filesystem.BeamIOError, ValueError) as error:
            raise UserError(f"{pattern} cannot be listed: {error}") from error
        if not result.metadata_list:
            raise UserError(
                f"No event files match {pattern}."
                + " In a pattern, [[] matches a literal [." * ("[" in pattern)
            )
        files |= {entry.path for entry in result.metadata_list}
    for path in files:
        events.kind(path)
    return tuple(sorted(files))


def check(figures: dict[str, Any], max_skipped: float) -> None:
    """Rejects damaged files, and too many bad rows or unknown IDs.

    Raises:
      UserError: saying what is wrong, with the first examples.
    """
    broken = [message for (message,) in figures["broken_files"]]
    if broken:
        raise UserError("\n  ".join(["These files cannot be used:", *broken]))
    total = sum(figures[name] for name in _ALL)
    if not total:
        raise UserError("The files contain no events.")
    for names, problem, examples in (
        (("bad_rows",), "are bad rows", _bad_rows(figures)),
        (
            ("events_of_unknown_queries", "events_of_unknown_items"),
            "have an ID that is not in the tables of queries and items",
            _unknown(figures),
        ),
    ):
        count = sum(figures[name] for name in names)
        if count > max_skipped * total:
            raise UserError(
                "\n  ".join(
                    [
                        f"{count:,} of {total:,} events {problem} "
                        f"(a fraction of {count / total:.3g}); "
                        f"--max-skipped allows {max_skipped:g}.",
                        *examples,
                    ]
                )
            )


# Each event counts once: under the reason for its exclusion, or as an exposure.
_ALL = (
    "bad_rows",
    "copies",
    "events_of_long_sessions",
    "events_of_unknown_queries",
    "events_of_unknown_items",
    "clicks_exposures",
    "clicks_later_exposures",
)
_COUNTS = (*_ALL, "clicks_clicks", "clicks_later_clicks")
_LISTS = ("broken_files", "bad_row_list", "unknown_queries", "unknown_items")


def _bad_rows(figures: dict[str, Any]) -> list[str]:
    return [
        f"{path}, {events.row_name(path)} {row}: {problem}."
        for path, row, problem in figures["bad_row_list"]
    ]


def _unknown(figures: dict[str, Any]) -> list[str]:
    return [
        f"{column} {text.quoted(name)}: {-count:,} events"
        for column, role in (("query_id", "queries"), ("item_id", "items"))
        for count, name in figures[f"unknown_{role}"]
    ]


def _run(job: beam_pipeline.Job, options: Sequence[str]) -> None:
    # Pickle by value, so that cluster workers need not install this package.
    for module in (text, errors, event_counts, events, beam_pipeline):
        cloudpickle.register_pickle_by_value(module)
    given = PipelineOptions(list(options))
    standard = given.view_as(StandardOptions)
    standard.runner = standard.runner or _RUNNER
    with beam.Pipeline(options=given) as pipeline:
        beam_pipeline.build(pipeline, job)


def _figures(place: str) -> dict[str, Any]:
    """Reads a pipeline's counts and lists; missing ones are 0 or []."""
    figures: dict[str, Any] = dict.fromkeys(_COUNTS, 0)
    figures |= {name: [] for name in _LISTS}
    for path in _parts(place, f"{beam_pipeline.SAID}-*.json"):
        with FileSystems.open(path) as file:
            figures.update(map(json.loads, file.read().splitlines()))
    return figures


def _gather(place: str, name: str) -> pa.Table:
    """Reads a table written by a pipeline, sorted by query and item."""
    parts = []
    # "clicks-*" does not match "clicks_later-...".
    for path in _parts(place, f"{name}-*.parquet"):
        with FileSystems.open(path) as file:
            # Arrow's threads would keep the file open; closing it after the
            # interpreter has shut down would abort the process.
            parts.append(pq.ParquetFile(file).read(use_threads=False))
    return pa.concat_tables(parts).sort_by(_ORDER)


def _check_place(place: str) -> None:
    """Rejects a folder whose path Beam would parse as a pattern."""
    if set(place) & set("[*?"):
        raise UserError(
            f"Beam cannot write to {os.path.dirname(place)}: its path "
            "contains [, * or ?. Choose another folder for the workers with "
            "--parts."
        )


def _parts(place: str, pattern: str) -> list[str]:
    (result,) = FileSystems.match([f"{place}/{pattern}"])
    return [entry.path for entry in result.metadata_list]


def _table(folder: Path, name: str) -> str:
    """Returns the path of a table in a click log's folder."""
    path = tables.find(folder, name)
    if path is None:
        raise UserError(
            f"The click log {folder} has neither {name}.csv nor "
            f"{name}.parquet; add one of them, or pass a table as --{name}."
        )
    return str(path)


def _files(table: str) -> tuple[str, ...]:
    """Returns the files of a table: one file, or the parts in a folder."""
    if not os.path.isdir(table):
        return (table,)
    return tuple(map(str, parts_lib.find(Path(table))))
