"""Turns a day's clicks into a model, for `launch/daily.sh`.

    python -m mixer_jax.daily begin --folder=SHOP --events=EVENTS \
        --table=catalog.csv --day=2026-01-31
    python -m mixer_jax.daily decide --folder=SHOP --day=2026-01-31

`begin` writes the day's click log to SHOP/days/2026-01-31 if there are new
clicks. `decide` switches SHOP/index to the model trained there, unless the
comparison with the current model says that it is worse.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.runtime import command, parsing, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.service import days


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.daily", __doc__)
    add = parser.add_argument
    add("form", choices=("begin", "decide"), help="what to do")
    add("--folder", required=True, help="the shop's folder")
    add("--day", required=True, help="the date, as in 2026-01-31")
    add("--events", help="begin: the folder that the service records in")
    add("--table", help="begin: sample table whose documents are the catalog")
    given = parser.parse_args(arguments)
    return command.run(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    if given.form == "decide":
        terminal.say(days.decide(given.folder, given.day))
        return
    for name in ("events", "table"):
        if not getattr(given, name):
            raise UserError(f"begin needs --{name}.")
    terminal.say(days.begin(given.folder, given.events, given.table, given.day))


if __name__ == "__main__":
    sys.exit(main())
