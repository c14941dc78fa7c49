"""Exports a trained stage's proxies and the category IDs of their rows.

    python -m mixer_jax.export --workdir=runs/quickstart/stage3 \
        --out=runs/quickstart/proxies [--to=huggingface]

The workdir is a stage's, or a curriculum's, whose last stage is taken. The
folder gets `proxies.npy` (float32, one row a category), `categories.json` (the
IDs in the rows' order) and `export.json`; an export that is there already is
replaced. `--to=huggingface` exports the encoders instead, each a folder that
transformers loads.
"""

import argparse
import sys
from collections.abc import Sequence

from mixer_jax.errors import UserError
from mixer_jax.retrieval import export, export_encoders, folders
from mixer_jax.runtime import command, parsing, terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = parsing.Parser(
        prog="python -m mixer_jax.export", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--workdir", required=True, help="a trained stage's or curriculum's")
    add("--out", required=True, help="the folder to write")
    add("--unit", action="store_true", help="scale every row to length 1")
    add("--to", choices=list(_KINDS), default="files", help="what to write")
    given = parser.parse_args(arguments)
    return command.run(lambda: _export(given))


def _export(given: argparse.Namespace) -> None:
    if given.unit and given.to != "files":
        raise UserError("--unit is for proxies; leave it out.")
    kind, write = _KINDS[given.to]
    with folders.owned(given.out, kind):
        said = write(given)
    terminal.say(said)


def _proxies(given: argparse.Namespace) -> str:
    made = export.write(given.workdir, given.out, given.unit)
    return (
        f"Wrote the proxies of {made.count:,} categories, {made.dim} numbers "
        f"each, of step {made.step} of {made.workdir} to {given.out}"
    )


def _encoders(given: argparse.Namespace) -> str:
    made = export_encoders.write(given.workdir, given.out)
    said = (
        f"Wrote {' and '.join(made.parts)} of step {made.step} of "
        f"{made.workdir} to {given.out}"
    )
    if made.without:
        said += f"; transformers has no {' and no '.join(made.without)}"
    return said


_KINDS = {
    "files": (export.KIND, _proxies),
    "huggingface": (export_encoders.KIND, _encoders),
}


if __name__ == "__main__":
    sys.exit(main())
