"""Reads and writes tables for all commands.

A table is a CSV file (UTF-8, commas), a Parquet file, or a folder of either.
Every cell is read as text, "" if it is empty, and written cells read back
unchanged. pandas is imported only where it is used, because Beam's environment
may lack it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mixer_jax.runtime import files, results
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import cells, csv_files, parquet_files, parts
from mixer_jax.runtime.tabular.csv_files import BLOCK
from mixer_jax.runtime.tabular.parquet_files import ROWS
from mixer_jax.runtime.text import LISTED, did_you_mean, listing, quoted

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")
_ADDRESS = re.compile("[a-z][a-z0-9+]+:/")  # Paths collapse the // to /.


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of one kind of table.

    Attributes:
      columns: required columns.
      optional: columns read as "" if they are missing.
      ids: columns of IDs, in which floats must be exact integers.
      exact: whether other columns are an error; otherwise they are ignored.
      name: the name of this kind of table, for error messages.
      note: appended to the message about wrong columns.
      images: the column that may hold images as bytes; see `image_column`.
    """

    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    exact: bool = False
    name: str = "table"
    note: str = ""
    images: str = ""

    def check(self, names: Sequence[str], path: str | os.PathLike) -> None:
        """Checks the names of a table's columns.

        Raises:
          UserError: if columns are missing, unknown or duplicate.
        """
        names = [str(name) for name in names]
        ours = (*self.columns, *self.optional)
        unknown = [name for name in names if name not in ours]
        missing = [name for name in self.columns if name not in names]
        duplicates = [name for name in ours if names.count(name) > 1]
        if not missing and not duplicates and not (unknown and self.exact):
            return
        lines = [f"The {self.name} {path} has wrong columns."]
        if self.exact:
            lines += _unknown(unknown, missing)
        for name in missing:
            hint = "" if self.exact else _suggestion(name, unknown)
            lines.append(f"Missing column {name!r}{hint}")
        lines += [f"Duplicate column {name!r}" for name in duplicates]
        if len(names) == 1 and missing and not _has_suffix(path, ".parquet"):
            lines.append("Is the file comma-separated?")
        elif not self.exact and missing:
            lines.append(f"Its columns are {listing(names)}.")
        exactly = "exactly " if self.exact else ""
        lines.append(f"It needs {exactly}{', '.join(self.columns)}{self.note}.")
        raise UserError("\n  ".join(lines))


class Batch(NamedTuple):
    """A batch of a table's rows.

    Attributes:
      rows: the layout's columns, all strings, "" if empty; the index is the row
        number in the table, from 0.
      done: the share of the table read so far, 0 to 1.
    """

    rows: pd.DataFrame
    done: float


def batches(
    path: str | os.PathLike,
    layout: Layout,
    *,
    rows: int = ROWS,
    block: int = BLOCK,
) -> Iterator[Batch]:
    """Yields a table's rows in order, in batches that bound the memory.

    Args:
      path: a `.csv` (UTF-8, commas) or `.parquet` file, or a folder of files
        of one of these formats.
      layout: the columns to read.
      rows: the rows per batch of a Parquet table.
      block: the bytes per batch of a CSV table.

    Raises:
      UserError: if the table is missing, cannot be read, has other columns,
        or changes while it is read.
    """
    import pandas as pd

    path = Path(path)
    is_parquet = _is_parquet(path, layout)
    columns = [*layout.columns, *layout.optional]

    def select(names: Sequence[str], part: Path) -> list[str]:
        layout.check(names, part)
        return [name for name in columns if name in names]

    read = (
        parquet_files.batches(path, select, rows, layout.images)
        if is_parquet
        else csv_files.batches(path, select, block)
    )
    start, version = 0, _version(path)
    try:
        for table, done in read:
            texts = _texts(table, path, layout, start)
            frame = pa.table({a: texts[a] for a in columns}).to_pandas()
            frame.index = pd.RangeIndex(start, start + len(frame))
            start += len(frame)
            yield Batch(frame, done)
    except UserError:
        _check_version(path, layout, version)
        files.check_fetched(path)
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        _check_version(path, layout, version)
        raise UserError(
            f"The {layout.name} {path} cannot be read: {error}"
        ) from error
    _check_version(path, layout, version)


def read(
    path: str | os.PathLike, layout: Layout, *, allow_empty: bool = False
) -> pd.DataFrame:
    """Returns a whole table.

    Args:
      path: see `batches`.
      layout: the columns to read.
      allow_empty: whether the table may have no rows.

    Returns:
      A frame with the layout's columns, all strings, and rows 0 to N-1;
      `attrs["table"]` is the path.

    Raises:
      UserError: see `batches`; also if there are no rows.
    """
    import pandas as pd

    frames = [batch.rows for batch in batches(path, layout)]
    if not sum(map(len, frames)) and not allow_empty:
        raise UserError(f"The {layout.name} {path} has no rows, only a header.")
    frames = frames or [
        pd.DataFrame(columns=[*layout.columns, *layout.optional])
    ]
    frame = pd.concat(frames, ignore_index=True).astype(str)
    frame.attrs["table"] = str(path)
    return frame


def write(
    table: pd.DataFrame | pa.Table, path: str | os.PathLike, subject: str = ""
) -> None:
    """Writes a table atomically; see `writer` and `results.deliver`."""
    rows = writer(table, path)
    results.deliver(path, rows, subject) if subject else files.write(path, rows)


def writer(
    table: pd.DataFrame | pa.Table, path: str | os.PathLike
) -> files.Writer:
    """Returns a writer of a table, as CSV or Parquet depending on the suffix.

    Parquet keeps numbers and nulls; CSV has "" for a null.

    Raises:
      UserError: if a cell has a lone surrogate, which cannot be encoded, or the
        suffix is neither `.csv` nor `.parquet`.
    """
    path = Path(path)
    if not _has_suffix(path, *SUFFIXES):
        raise UserError(f"The table {path} must be a .csv or a .parquet file.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; move it, or choose a file name.")
    table = _as_arrow(table, str(path))

    def write_rows(draft: Path) -> None:
        if _has_suffix(path, ".parquet"):
            with open(draft, "wb") as file:  # supports any file name
                pq.write_table(table, file)
            return
        with open(draft, "w", encoding="utf-8", newline="") as file:
            file.writelines(_lines(table))

    return write_rows


def csv_text(table: pd.DataFrame) -> str:
    """Returns the text that `write` would write to a CSV file."""
    return "".join(_lines(_as_arrow(table, "the table")))


def find(folder: str | os.PathLike, name: str) -> Path | None:
    """Returns the path of a table, given its name without suffix, or None.

    Raises:
      UserError: if the folder has the table in both formats.
    """
    paths = [Path(folder) / (name + suffix) for suffix in SUFFIXES]
    found = [path for path in paths if path.exists()]
    if len(found) > 1:
        raise UserError(
            f"{folder} has both {name}.csv and {name}.parquet; keep exactly "
            "one of them."
        )
    return found[0] if found else None


def name_records(path: str | os.PathLike, records: Sequence[int]) -> list[str]:
    """Returns the file and line or row of each record.

    A CSV record is named by its first line; the header is line 1.

    Args:
      path: the table; "" for a table without a file.
      records: record numbers, from 0.
    """
    name = os.fspath(path)
    if not name:
        return [f"row {record + 1}" for record in records]
    try:
        path = Path(name)
        if parts.are_csv(path):
            return csv_files.name_lines(path, records)
        return parquet_files.name_rows(path, records)
    except (LookupError, OSError, UserError, pa.ArrowException):
        # The file has since been changed or removed.
        return [f"{name}, row {record + 1} as read" for record in records]


def _is_parquet(path: Path, layout: Layout) -> bool:
    """Returns whether a table is Parquet; raises if it is not a table."""
    if not os.path.exists(path):
        if _ADDRESS.match(os.fspath(path)):
            raise UserError(
                f"The {layout.name} {path} is not on this machine. Copy a "
                "sample table and its images from a bucket with python -m "
                "mixer_jax.data.prepare --table=ADDRESS --out=FOLDER, and use "
                "the copy."
            )
        link = os.path.islink(path)
        hint = ": it is a broken link" if link else ""
        raise UserError(f"There is no {layout.name} at {path}{hint}.")
    if not (path.is_dir() or path.is_file()):
        raise UserError(
            f"The {layout.name} {path} is not a regular file. It is read more "
            "than once, so write the output of a pipe to a file first."
        )
    if path.is_dir():
        return not parts.are_csv(path)
    if _has_suffix(path, ".parquet"):
        return True
    if not _has_suffix(path, ".csv"):
        raise UserError(
            f"The {layout.name} {path} must be a .csv or a .parquet file."
        )
    return False


def _version(path: Path) -> list[tuple[Path, int, int, int]]:
    """Returns the parts of a table, each with inode, size and time."""
    found = []
    for part in parts.find(path):
        with contextlib.suppress(OSError):
            stat = os.stat(part)
            found.append((part, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found


def _check_version(path: Path, layout: Layout, version: list) -> None:
    """Raises a `UserError` if a table has changed."""
    if _version(path) != version:
        raise UserError(
            f"The {layout.name} {path} changed while it was being read; rerun "
            "the command once it is completely written."
        )


def _has_suffix(path: str | os.PathLike, *suffixes: str) -> bool:
    return os.fspath(path).lower().endswith(suffixes)


def _texts(
    table: pa.Table, path: Path, layout: Layout, start: int
) -> dict[str, pa.Array]:
    """Returns the cells of each column of a layout as strings."""
    texts = {}
    for name in (*layout.columns, *layout.optional):
        if name not in table.column_names:
            texts[name] = pa.repeat(pa.scalar(""), table.num_rows)
            continue
        if name in layout.ids and (bad := cells.lossy(table[name])):
            row, problem = bad
            (where,) = name_records(path, [start + row])
            raise UserError(
                f"{where}, column {name}: {problem}; write IDs as text or "
                "integers."
            )
        column = f"column {name}"
        try:
            texts[name] = cells.as_text(table[name], f"{path}, {column}")
        except cells.NotTextError as error:
            (where,) = name_records(path, [start + error.row])
            raise UserError(f"{where}, {column}: {error.problem}") from error
    return texts


def _as_arrow(table: pd.DataFrame | pa.Table, where: str) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    try:
        made = pa.Table.from_pandas(table, preserve_index=False)
    except UnicodeEncodeError as error:
        name = next(
            f", column {column}, row {row + 1}: {quoted(cell)}"
            for column in table
            for row, cell in enumerate(table[column])
            if isinstance(cell, str) and not _is_text(cell)
        )
        raise UserError(
            f"{where}{name} cannot be written: it contains a lone surrogate, "
            "as file names that are not UTF-8 do; rename it."
        ) from error
    return made.replace_schema_metadata(None)


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(table: pa.Table) -> Iterator[str]:
    """Yields the text of a CSV file in chunks."""
    names = table.column_names
    yield csv_files.encode_header(names)
    for batch in table.to_batches(max_chunksize=ROWS):
        texts = [
            cells.as_text(batch.column(place), f"column {name}")
            for place, name in enumerate(names)
        ]
        yield csv_files.encode(pa.RecordBatch.from_arrays(texts, names))


def _unknown(names: Sequence[str], missing: Sequence[str]) -> list[str]:
    """Returns a message line for each of the first unknown columns."""
    lines = [
        f"Unknown column {quoted(name)}{_suggestion(name, missing)}"
        for name in names[:LISTED]
    ]
    more = len(names) - len(lines)
    if more > 0:
        lines.append(f"... and {more:,} more unknown columns")
    return lines


def _suggestion(name: str, known: Sequence[str]) -> str:
    if hint := did_you_mean(name, known):
        return hint
    if name.startswith("Unnamed:"):
        return "; is it a pandas index? (index=False)"
    if name:
        return ""
    return "; is it a pandas index (index=False), or a comma at a line's end?"
