"""`results.jsonl`: one line for each finished run, appended durably."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.watch.appended import Appended

NAME = "results.jsonl"
TRIAL, FINAL = KINDS = ("trial", "final")
Row = dict[str, Any]
# The keys that every row has, with their types.
_KEYS = {
    "kind": str,
    "key": str,
    "suite": str,
    "section": str,
    "method": str,
    "data": str,
    "fold": str,
    "content": str,
    "hyper": dict,
    "measures": dict,
}


class Content(NamedTuple):
    """The rows of a file.

    Attributes:
      rows: the rows, in order.
      size: the bytes of the whole lines.
      cut: the bytes after them, those of an unfinished last line.
    """

    rows: list[Row]
    size: int
    cut: int


def read(path: pathlib.Path) -> Content:
    """Reads a file; one that does not exist has no rows.

    Raises:
      UserError: if a line other than the last is damaged; names it.
    """
    if not path.exists():
        return Content([], 0, 0)
    content, rows, size = path.read_bytes(), [], 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        whole = number < len(lines)  # ends with a line break
        row = _parse(line) if whole else None
        if row is None:
            if number >= len(lines) - 1 and not any(lines[number:]):
                break  # a run was killed, or lost power, while it wrote
            raise UserError(
                f"Line {number} of {path} is damaged. Delete this line; the "
                "same command then repeats only its run."
            )
        rows.append(row)
        size += len(line) + 1
    return Content(rows, size, len(content) - size)


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("kind") not in KINDS:
        return None
    if all(isinstance(row.get(key), kind) for key, kind in _KEYS.items()):
        return row
    return None


class ResultsLog:
    """The open file of a suite's results.

    Attributes:
      rows: all rows, including those added.
    """

    def __init__(self, folder: pathlib.Path, say: Callable[[str], None]):
        """Opens the file, and cuts off a line that a killed run left behind.

        Args:
          folder: the folder of the file; it must exist.
          say: called with a message if a line is cut off.
        """
        path = folder / NAME
        self.rows, size, cut = read(path)
        if cut:
            say(
                f"{path}: cut off the last line ({cut} bytes), which is "
                "incomplete; its run is repeated."
            )
            os.truncate(path, size)
        self._file = Appended(path)

    def add(self, row: Row) -> None:
        """Appends a row, and waits until it is on the disk.

        Raises:
          UserError: if there is no space left.
        """
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.sync()
        self.rows.append(row)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
