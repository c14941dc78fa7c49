"""Reads a click log: queries, items, and clicks per query-item pair.

A log consists of three tables, each a CSV file, a Parquet file or a folder of
Parquet files:

  queries  query_id, image
  items    item_id, image, text          (image or text may be "", not both)
  clicks   query_id, item_id, exposures, clicks

Image paths are relative to the folder of the table that names them. In a
Parquet table, the column `image` may hold the bytes of the images instead.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixer_jax.runtime import similar
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import guards
from mixer_jax.runtime.tabular import boxes, tables
from mixer_jax.runtime.text import quoted

QUERIES = ("query_id", "image")
ITEMS = ("item_id", "image", "text")
CLICKS = ("query_id", "item_id", "exposures", "clicks")
_COUNTS = ("exposures", "clicks")
_LARGEST = 2**53  # float64 represents all integers below this exactly


@dataclasses.dataclass(frozen=True)
class ClickLog:
    """A validated click log.

    Attributes:
      queries: columns query_id, image (an absolute path).
      items: columns item_id, image (an absolute path or ""), text.
      clicks: columns query (int64, row of `queries`), item (int64, row of
        `items`), exposures, clicks (int64); pairs are unique.
      duplicates: number of click rows merged into another row of the same pair.
    """

    queries: pd.DataFrame
    items: pd.DataFrame
    clicks: pd.DataFrame
    duplicates: int = 0


def read_folder(folder: str | Path) -> ClickLog:
    """Reads queries, items and clicks (.csv or .parquet) from one folder.

    Raises:
      UserError: if a table is missing or invalid, see `read_tables`.
    """
    with guards.steady(folder):
        return read_tables(
            *(_find(folder, name) for name in ("queries", "items", "clicks"))
        )


class _Frame(NamedTuple):
    """An in-memory table, and its name in messages."""

    rows: pd.DataFrame
    name: str

    def __str__(self) -> str:
        """Returns the name."""
        return self.name


Source = str | Path | pd.DataFrame


def read_tables(queries: Source, items: Source, clicks: Source) -> ClickLog:
    """Reads and validates the three tables of a click log.

    Args:
      queries: a path, or a frame whose image paths are relative to the working
        directory.
      items: the catalog, likewise.
      clicks: the counts per query-item pair, likewise.

    Raises:
      UserError: naming the file, row and column of the first error.
    """
    queries, items, clicks = (
        _Frame(table, name) if isinstance(table, pd.DataFrame) else table
        for table, name in (
            (queries, "queries"),
            (items, "items"),
            (clicks, "clicks"),
        )
    )
    query_rows = _catalog(queries, QUERIES, needs=("image",))
    item_rows = _catalog(items, ITEMS, needs=("image", "text"))
    both = sorted(set(query_rows["query_id"]) & set(item_rows["item_id"]))
    if both:
        raise UserError(
            f"{quoted(both[0])} is the ID of both a query in {queries} and an "
            f"item in {items}; sample IDs must be unique, so add a prefix to "
            "one of them."
        )
    pairs = read_columns(clicks, CLICKS)
    for column, known, file in (
        ("query_id", query_rows["query_id"], queries),
        ("item_id", item_rows["item_id"], items),
    ):
        rows = pd.Index(known).get_indexer(pairs[column])
        if (rows < 0).any():
            at = int(np.argmax(rows < 0))
            name = pairs[column].iloc[at]
            raise UserError(
                f"{_where(clicks, at, column)}: {quoted(name)} is not in {file}"
                f"{similar.hint(name, known)}."
            )
        pairs[column.removesuffix("_id")] = rows.astype(np.int64)
    for column in _COUNTS:
        pairs[column] = _counts(clicks, pairs[column])
    over = (pairs["clicks"] > pairs["exposures"]).to_numpy()
    if over.any():
        at = int(np.argmax(over))
        raise UserError(
            f"{_where(clicks, at, 'clicks')}: clicks "
            f"({pairs['clicks'].iloc[at]}) exceed exposures "
            f"({pairs['exposures'].iloc[at]}); count one exposure each time an "
            "item is shown."
        )
    total = pairs.groupby(["query", "item"], sort=True, as_index=False)[
        list(_COUNTS)
    ].sum()
    return ClickLog(query_rows, item_rows, total, len(pairs) - len(total))


def home(table: str | Path) -> Path:
    """Returns the resolved folder to which a table's image paths are relative.

    If the table itself is a symbolic link, this is the folder of the link,
    because data versioning tools replace tables with links to their store.
    """
    table = Path(table)
    # The table may be a folder of parts, given as "." or "..".
    if table.name in ("", ".."):
        return table.resolve().parent
    return table.parent.resolve()


def keep(log: ClickLog, kept: set[str]) -> ClickLog:
    """Returns the log restricted to the `kept` samples and their clicks."""
    tables, clicks = [], log.clicks
    for rows, key, column in (
        (log.queries, "query_id", "query"),
        (log.items, "item_id", "item"),
    ):
        here = rows[key].isin(kept).to_numpy()
        clicks = clicks[here[clicks[column]]]
        clicks = clicks.assign(**{column: (here.cumsum() - 1)[clicks[column]]})
        tables.append(rows[here].reset_index(drop=True))
    return ClickLog(*tables, clicks.reset_index(drop=True), log.duplicates)


def read_columns(
    path: str | Path | _Frame, columns: tuple[str, ...]
) -> pd.DataFrame:
    """Reads `columns` of a CSV or Parquet table as text; empty cells are "".

    Crop boxes become part of the image name; see `boxes`.

    Raises:
      UserError: if the file is missing, unreadable, empty or lacks a column.
    """
    has_images = "image" in columns
    optional = boxes.COLUMNS if has_images else ()
    if isinstance(path, _Frame):
        rows = _columns_of(path, columns, optional)
    else:
        images = "image" if has_images else ""
        ids = tuple(name for name in columns if name.endswith("_id"))
        layout = tables.Layout(columns, optional, ids, images=images)
        rows = tables.read(path, layout)
    if not has_images:
        return rows
    for check in boxes.CHECKS:
        message = check.message.replace("{value}", "{}")
        _reject(path, rows[check.column], check.broken(rows), message)
    return boxes.join(rows)


def read_samples(path: str | Path) -> pd.DataFrame:
    """Reads the columns of a sample table needed to simulate a click log.

    Raises:
      UserError: see `read_columns`; also naming the first row with a missing,
        invalid or duplicate ID, without a category, or with a role other than
        query and document.
    """
    names = ("sample_id", "role", "image", "text", "category_id", "split")
    frame = read_columns(path, names)
    _check_ids(path, frame["sample_id"])
    role, category = frame["role"], frame["category_id"]
    other = ~role.isin(("query", "document"))
    _reject(path, role, other, "the role must be 'query' or 'document', not {}")
    _reject(path, category, category == "", "the category is empty")
    return frame


def _check_ids(path: str | Path | _Frame, ids: pd.Series) -> None:
    ends = "the ID ends in a NUL character, which sample tables do not allow"
    _reject(path, ids, ids == "", "the ID is empty")
    _reject(path, ids, ids.str.endswith("\0"), ends)
    again = "this ID already occurs in an earlier row"
    _reject(path, ids, ids.duplicated(), again)


def _reject(
    path: str | Path | _Frame,
    cells: pd.Series,
    bad: pd.Series | np.ndarray,
    problem: str,
) -> None:
    """Raises a `UserError` about the first bad cell of a column, if any.

    Args:
      path: the table.
      cells: the column.
      bad: bool `[N]`.
      problem: what is wrong, with "{}" in place of the cell.
    """
    if np.any(bad):
        at = int(np.argmax(bad))
        problem = problem.format(quoted(cells.iloc[at]))
        raise UserError(f"{_where(path, at, str(cells.name))}: {problem}.")


def _columns_of(
    table: _Frame, columns: tuple[str, ...], optional: tuple[str, ...]
) -> pd.DataFrame:
    """Returns columns of an in-memory table as text; missing values are ""."""
    missing = [name for name in columns if name not in table.rows]
    if missing:
        raise UserError(
            f"The table {table} has no column {missing[0]}; it needs "
            f"{', '.join(columns)}."
        )
    if table.rows.empty:
        raise UserError(f"The table {table} has no rows.")
    columns += tuple(name for name in optional if name in table.rows)
    twice = [name for name in columns if list(table.rows).count(name) > 1]
    if twice:
        raise UserError(f"The table {table} has the column {twice[0]} twice.")
    cells = table.rows[list(columns)].reset_index(drop=True)
    for name in columns:
        if name.endswith("_id") and _has_floats(cells[name]):
            raise UserError(
                f"Column {name} of the table {table} contains floats; IDs must "
                "be strings or integers."
            )
    empty = cells.isna()
    try:
        cells = cells.astype(str).mask(empty, "")
        return cells.assign(**{a: "" for a in optional if a not in cells})
    except UnicodeDecodeError as error:
        raise UserError(
            f"The table {table} contains bytes; cells must be text or numbers."
        ) from error


def _has_floats(column: pd.Series) -> bool:
    if pd.api.types.is_float_dtype(column):
        return True
    # Columns of dtype object can hold any type, with NaN for missing cells.
    return any(isinstance(cell, float) for cell in column.dropna())


def _find(folder: str | Path, name: str) -> Path:
    path = tables.find(folder, name)
    if path is None:
        raise UserError(
            f"The click log {folder} has neither {name}.csv nor "
            f"{name}.parquet; one of them is needed."
        )
    return path


def _catalog(
    path: str | Path, columns: tuple[str, ...], needs: tuple[str, ...]
) -> pd.DataFrame:
    """Reads queries or items; rows need a unique ID and one of `needs`."""
    frame = read_columns(path, columns)
    _check_ids(path, frame[columns[0]])
    _reject(
        path,
        frame[needs[0]],
        (frame[list(needs)] == "").all(axis=1),
        f"the row has no {' and no '.join(needs)}, so nothing can be learned "
        "from it",
    )
    folder = Path.cwd() if isinstance(path, _Frame) else home(path)
    images = [
        os.path.normpath(folder / image) if image else ""
        for image in frame["image"]
    ]
    # Use dtype object, as a folder name may not be valid UTF-8.
    frame["image"] = pd.Series(images, frame.index, dtype=object)
    return frame


def _counts(path: str | Path | _Frame, values: pd.Series) -> np.ndarray:
    """Returns counts as int64; rejects anything but non-negative integers."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(numbers) & (numbers >= 0) & (numbers % 1 == 0))
    _reject(
        path, values, bad, "{} is not a count; use a whole number of 0 or more"
    )
    if numbers.sum() >= _LARGEST:
        _reject(
            path,
            values,
            numbers == numbers.max(),
            f"{{}} is too large; the sum of a column must be below {_LARGEST}",
        )
    return numbers.astype(np.int64)


def _where(path: str | Path | _Frame, row: int, column: str) -> str:
    """Locates a cell, for messages; the header of a CSV file is line 1."""
    if isinstance(path, _Frame):
        return f'{path}, row {row}, column "{column}"'
    (where,) = tables.name_records(path, [row])
    return f'{where}, column "{column}"'
