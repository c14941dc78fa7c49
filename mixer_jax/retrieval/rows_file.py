"""The file of evaluation rows, `metrics.json`."""

import json
import os
from collections.abc import Iterable

from mixer_jax.retrieval import metrics
from mixer_jax.retrieval.evaluate import Row
from mixer_jax.runtime import files, paths, results
from mixer_jax.runtime.errors import UserError


def update(path: str | os.PathLike, rows: Iterable[Row]) -> list[Row]:
    """Adds rows to a JSON list, replacing rows with the same `metrics.KEY`.

    The file is replaced atomically; updates of a local file are serialized.

    Returns:
      All rows of the file, with models in order of first appearance.

    Raises:
      UserError: if the file is not a list of rows or cannot be written; see
        `results.deliver` for where the rows are saved instead.
    """
    path, rows = paths.make(path), list(rows)
    with paths.in_turn(path):
        writer = files.text_writer(json.dumps(rows, indent=1) + "\n")
        with results.rescuing(path, writer, "The rows"):
            merged = merge(path, rows)  # The file may have new rows.
        paths.deliver(path, json.dumps(merged, indent=1) + "\n", "The rows")
    return merged


def check_out(path: str | os.PathLike) -> None:
    """Raises a `UserError` unless `update` can write a file of rows."""
    path = paths.make(path)
    merge(path, ())
    paths.check_file(path, "The rows")


def merge(path: str | os.PathLike, rows: Iterable[Row]) -> list[Row]:
    """Returns the rows that `update` would write, without writing them."""
    path = paths.make(path)
    with paths.reaching(path):
        content = path.read_bytes() if path.exists() else b"[]"
    try:
        old = json.loads(content)
        if not isinstance(old, list) or not all(map(metrics.is_row, old)):
            raise ValueError("not a list of rows")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a list of evaluation rows; move it, or write to "
            "another file with --out."
        ) from error
    return list((metrics.by_key(old) | metrics.by_key(rows)).values())
