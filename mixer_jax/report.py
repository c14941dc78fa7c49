"""Writes a run's report: one HTML page that needs no network.

    python -m mixer_jax.report --run=runs/quickstart

It shows what the folder holds: measures, examples by the last stage's model,
curves and monitors, the quality of the categories.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax import mesh as mesh_lib
from mixer_jax.errors import UserError
from mixer_jax.reports import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mixer_jax.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--run", required=True, help="the run's folder")
    parser.add_argument(
        "--out", default="", help="default RUN/report/index.html"
    )
    given = parser.parse_args(arguments)
    try:
        path = run.build(given.run, mesh_lib.make_mesh(), given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
