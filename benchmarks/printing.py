"""Output of a benchmark: its table, the machine, and the rows as JSON."""

import argparse
import json
import pathlib
from typing import Any

import rich.console
import rich.table

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError


def show(
    table: rich.table.Table, rows: list[dict[str, Any]], width: int, path: str
) -> None:
    """Prints the table and the machine; writes the rows.

    Args:
      table: the table of the rows.
      rows: the rows, each with the result of `machine.describe`.
      width: minimum width of the output in characters, even in a log file.
      path: the path of the JSON file; "" to write none.
    """
    console = rich.console.Console()
    console.width = max(console.width, width)
    console.print(table)
    versions = " ".join(f"{n} {v}" for n, v in rows[0]["versions"].items())
    print(f"{rows[0]['machine']}; {versions}")
    if path:
        write(rows, path)
        print(f"Wrote {path}")


def write(rows: Any, path: str) -> None:
    """Writes the rows as JSON; creates the folder of the file if necessary."""
    file = pathlib.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=2) + "\n")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json, whose file is checked before anything is measured."""
    given = "file to write the rows to"
    parser.add_argument("--json", default="", type=_checked, help=given)


def _checked(path: str) -> str:
    """Returns the path of a file that can be written."""
    try:
        if path:
            files.check(path, "The rows")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path
