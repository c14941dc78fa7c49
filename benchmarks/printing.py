"""Output of a benchmark: its table, the machine, and the rows as JSON."""

import json
import pathlib
from typing import Any

import rich.console
import rich.table


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
        pathlib.Path(path).write_text(json.dumps(rows, indent=2) + "\n")
        print(f"Wrote {path}")
