"""Measures which granularity of categories is best for training retrieval.

    python -m mixer_jax.sweep --categories=runs/quickstart \
        --truth=runs/quickstart/data/medium.csv

--categories is the output folder DIR of categorize, whose features are reused.
Categories are found for a grid of --threshold, the minimum affinity of two
neighbors (DBSCAN's eps is 1 - threshold), and --neighbors, the number of
neighbors per sample. Each grid point is measured by training a linear map of
frozen features on its categories. Writes DIR/sweep.json, which
python -m mixer_jax.report --categories=DIR plots.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mixer_jax.categories import outcome, sweep
from mixer_jax.data.tables import table
from mixer_jax.experiments import granularity
from mixer_jax.runtime import command, numbers, parsing, terminal
from mixer_jax.runtime.ownership import folder_lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.for_command("mixer_jax.sweep", __doc__)
    add = parser.add_argument
    add("--categories", required=True, help="categorize's --out")
    add("--log", default="", help="categorize's --log; default: detected")
    add("--truth", help="categorize's --truth; default: use later clicks")
    add(
        "--threshold",
        type=_numbers(numbers.number(0, 1)),
        help="affinity thresholds, such as 0.35,0.45",
    )
    add(
        "--neighbors",
        type=_numbers(numbers.whole(1)),
        help="neighbors per sample, such as 5,10,20",
    )
    given = parser.parse_args(arguments)
    return command.run(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    granularity.check_out(given.categories)
    with folder_lock.hold(given.categories, "--categories"):
        _sweep(given)


def _sweep(given: argparse.Namespace) -> None:
    truth = table.read_table(given.truth) if given.truth else None
    log = given.log or outcome.find_log(given.categories)
    result = granularity.measure(
        outcome.read(given.categories, log, truth),
        given.threshold or sweep.THRESHOLDS,
        given.neighbors or sweep.NEIGHBORS,
        kept=Path(given.categories) / granularity.KEPT,
    )
    terminal.say(granularity.lines(result))
    terminal.say(f"Wrote {granularity.write(result, given.categories)}")


def _numbers(read: Callable[[str], float]) -> Callable[[str], list[float]]:
    """Returns a parser of comma-separated numbers."""

    def parse(text: str) -> list[float]:
        return [read(part) for part in text.split(",")]

    return parse


if __name__ == "__main__":
    sys.exit(main())
