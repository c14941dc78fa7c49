"""Aggregates click events into the clicks table of a click log, on Beam.

    python -m mixer_jax.categories.aggregate --events="events/*.parquet" \
        --out=LOG [--until=2026-06-01] [-- --runner=FlinkRunner ...]

LOG is the folder with the tables of queries and items
(mixer_jax/categories/click_log.py); mixer_jax/categories/clicks/events.py
describes the event format. Writes clicks.parquet to LOG and, with --until, the
counts of later events to clicks_later.parquet, for evaluating categories found
from the earlier events. The counts are written to aggregate.json.

Duplicate events (same session, query, item and time) count once; events with
unknown IDs are left out. Arguments after -- are passed to Beam, which runs in
this process unless a runner is given. For a runner on other machines, --events,
--queries, --items and --parts must be paths that its workers can reach.

Beam restricts the versions of other packages, so install it in an environment
of its own:

    python -m venv .venv-beam
    .venv-beam/bin/pip install "apache-beam>=2.77,<3"
    .venv-beam/bin/python -m mixer_jax.categories.aggregate ...
"""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from typing import Any

from mixer_jax.categories.clicks import events
from mixer_jax.runtime import command, files, numbers, parsing, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import folder_lock

_MISSING = (
    "Apache Beam is not installed. It restricts the versions of other "
    "packages, so install it in an environment of its own: python -m venv "
    '.venv-beam && .venv-beam/bin/pip install "apache-beam>=2.77,<3", then run '
    "this command with .venv-beam/bin/python."
)

_WRITTEN = ("clicks.parquet", "clicks_later.parquet", "aggregate.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command(
        "mixer_jax.categories.aggregate",
        __doc__,
        epilog="Arguments after -- are passed to Beam: -- --runner=FlinkRunner",
    )
    add = parser.add_argument
    add(
        "--events",
        required=True,
        action="append",
        help="files or patterns: CSV, JSON lines or Parquet; may be repeated",
    )
    add("--out", required=True, help="folder of the click log")
    add("--until", help="events from this time on are set aside")
    add("--queries", default="", help="default: the table in --out")
    add("--items", default="", help="default: the table in --out")
    add("--parts", default="", help="temporary folder for the workers")
    add(
        "--longest-session",
        type=numbers.whole(1),
        help="maximum events per session; longer ones are left out",
    )
    add(
        "--max-skipped",
        type=numbers.share,
        default=0.01,
        help="maximum share of bad rows",
    )
    given, options = _split(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(given)
    return command.run(lambda: terminal.say(_lines(_aggregate(given, options))))


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments before and after `--`."""
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _aggregate(given: argparse.Namespace, options: list[str]) -> dict[str, Any]:
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError(_MISSING)
    if "://" in given.out:
        raise UserError(
            f"--out={given.out} is remote, but the clicks table is written on "
            "this machine; pass a local folder. --queries, --items and --parts "
            "can be remote."
        )
    files.check_folder(given.out, "The clicks table", _WRITTEN)
    until = None
    if given.until is not None:
        try:
            until = events.microseconds(given.until)
        except ValueError as error:
            raise UserError(f"--until: {error}.") from error
    # Silence Beam's warnings about missing optional packages. Beam's log is
    # enabled again below if there are options for Beam, such as another runner.
    logging.disable(logging.WARNING)
    from mixer_jax.categories.clicks import gathering

    if options:
        logging.disable(logging.NOTSET)
    with folder_lock.hold(given.out, "--out"):
        return gathering.aggregate(
            given.events,
            given.out,
            queries=given.queries,
            items=given.items,
            parts=given.parts,
            until=until,
            longest_session=given.longest_session,
            max_skipped=given.max_skipped,
            options=options,
        )


def _lines(figures: dict[str, Any]) -> str:
    """Formats the counts for a terminal."""
    names = ["clicks"]
    if figures["until_microseconds"] is not None:
        names.append("clicks_later")
    lines = [
        f"{name}: {figures[f'{name}_pairs']:,} pairs, "
        f"{figures[f'{name}_exposures']:,} exposures, "
        f"{figures[f'{name}_clicks']:,} clicks"
        for name in names
    ]
    left_out = {
        "duplicates": figures["copies"],
        "bad rows": figures["bad_rows"],
        "with unknown queries": figures["events_of_unknown_queries"],
        "with unknown items": figures["events_of_unknown_items"],
        "in long sessions": figures["events_of_long_sessions"],
    }
    counts = [f"{why} ({count:,})" for why, count in left_out.items() if count]
    lines.append(f"left out: {', '.join(counts) or 'nothing'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
