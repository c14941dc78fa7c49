"""Exports a trained stage's proxies and the category IDs of their rows.

    python -m mixer_jax.export --workdir=runs/quickstart/stage3 \
        --out=runs/quickstart/proxies

The workdir is a stage's, or a curriculum's, whose last stage is taken. The
folder gets `proxies.npy` (float32, one row a category), `categories.json` (the
IDs in the rows' order) and `export.json`; an export that is there already is
replaced.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.errors import UserError
from mixer_jax.retrieval import export


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mixer_jax.export", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--workdir", required=True, help="a trained stage's or curriculum's")
    add("--out", required=True, help="the folder to write")
    add("--unit", action="store_true", help="scale every row to length 1")
    given = parser.parse_args(arguments)
    try:
        made = export.write(given.workdir, given.out, given.unit)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"Wrote the proxies of {made.count:,} categories, {made.dim} numbers "
        f"each, of step {made.step} of {made.workdir} to {given.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
