"""The files of a table: one file, or the parts in a folder.

Spark, Beam and other systems write a table as a folder of CSV or Parquet files.
"""

import os
import urllib.parse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import cells
from mixer_jax.runtime.text import quoted

# Folders in which other kinds of tables record which parts are valid.
_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
_UNFINISHED = "_temporary"  # a folder that Spark removes at the end
_NULL = "__HIVE_DEFAULT_PARTITION__"
_CSV = (".csv", ".csv.gz")


def find(path: Path) -> list[Path]:
    """Returns the files of a table in order.

    Files whose names start with "." or "_", such as `_SUCCESS`, are not parts.
    Links to folders are followed, except those to a folder that contains the
    table; a folder with two links to it is read under both names, like a file.

    Raises:
      UserError: if a folder has no parts, cannot be listed, is still being
        written, or may hold parts that are no longer valid.
    """
    if not path.is_dir():
        return [path]
    special = (_UNFINISHED, *_LOGS)
    check_folders(path, [name for name in special if (path / name).is_dir()])
    found = []
    for folder, folders, names in os.walk(
        path, followlinks=True, onerror=_unlisted
    ):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if name[0] not in "._" and not _is_above(here / name, path)
        )
        found += [here / name for name in names if name[0] not in "._"]
    if not found:
        raise UserError(
            f"The table {path} is a folder without Parquet or CSV files."
        )
    return sorted(found)


def check_folders(table: str | os.PathLike, folders: Collection[str]) -> None:
    """Checks the folders directly inside the folder of a table.

    Args:
      table: the table's path, for messages.
      folders: their names.

    Raises:
      UserError: if one of them shows that the table is still being written, or
        may hold parts that are no longer valid.
    """
    if _UNFINISHED in folders:
        raise UserError(
            f"The table {os.fspath(table)} is not complete: it contains a "
            f"folder {_UNFINISHED}, which Spark removes once all parts are "
            "written."
        )
    for log, kind in _LOGS.items():
        if log in folders:
            raise UserError(
                f"The table {os.fspath(table)} is a {kind} table, whose folder "
                "may contain rows that were deleted or replaced; write its "
                "rows as plain Parquet files to another folder."
            )


def are_csv(path: Path) -> bool:
    """Returns whether the parts of a table's folder are CSV files.

    Raises:
      UserError: if only some of them are; see also `find`.
    """
    files = find(path)
    csv = [part for part in files if part.name.lower().endswith(_CSV)]
    if csv and len(csv) < len(files):
        other = next(part for part in files if part not in csv)
        raise UserError(
            f"The table {path} has both CSV files, such as {csv[0]}, and other "
            f"files, such as {other}; all parts of a table must have the same "
            "format."
        )
    return bool(csv)


def parent(path: str | os.PathLike) -> Path:
    """Returns the folder of a table; image paths are relative to it."""
    path = Path(path)
    # A folder of parts may be named "." or "..".
    if path.name in ("", ".."):
        path = Path(os.path.realpath(path))
    return path.parent


def check(part: Path) -> None:
    """Raises a `UserError` if a part exists but is not a regular file."""
    if part.exists() and not part.is_file():
        raise UserError(f"{part} cannot be read: it is not a regular file.")


class Partition:
    """The columns that a part's folders add to it, as in Hive.

    A folder named `a=1` adds column `a`, whose cells are "1".
    """

    def __init__(self, path: Path, part: Path):
        """Takes the path of a table and of one of its parts."""
        self._part, self._fixed = part, {}
        folders = part.relative_to(path).parts[:-1] if part != path else ()
        for name in folders:
            key, equals, value = name.partition("=")
            if equals:
                text = "" if value == _NULL else urllib.parse.unquote(value)
                self._fixed[key] = text

    def names(self, inside: Sequence[str]) -> list[str]:
        """Returns the names of all columns, given those inside the part."""
        return [*inside, *(name for name in self._fixed if name not in inside)]

    def complete(self, table: pa.Table, wanted: Sequence[str]) -> pa.Table:
        """Returns rows of the part with the columns of its folders.

        Args:
          table: the rows as they are in the part.
          wanted: the columns to return, in order.

        Raises:
          UserError: if a cell differs from the name of the folder.
        """
        for name in set(wanted) & set(self._fixed):
            if name in table.column_names:
                self._check(table[name], name)
                continue
            column = pa.repeat(pa.scalar(self._fixed[name]), table.num_rows)
            table = table.append_column(name, column)
        return table.select(wanted)

    def _check(self, column: pa.ChunkedArray, name: str) -> None:
        value = self._fixed[name]
        found = cells.as_text(column, f"{self._part}, column {name}")
        other = pc.index(pc.equal(found, value), False).as_py()
        if other >= 0:
            cell = quoted(found[other].as_py())
            raise UserError(
                f"{self._part}, column {name}: a cell is {cell}, but the "
                f"folder's name specifies {quoted(value)}; move the file, or "
                "rename the folder so that its name has no '='."
            )


def _is_above(folder: Path, table: Path) -> bool:
    """Returns whether a folder of a table links to a folder above it."""
    if not folder.is_symlink():
        return False
    inside = len(folder.parents) - len(table.parents)
    target = folder.resolve()
    above = (one.resolve() for one in folder.parents[:inside])
    return any(one.is_relative_to(target) for one in above)


def _unlisted(error: OSError) -> NoReturn:
    # By default, `os.walk` skips a folder that it cannot list.
    raise UserError(
        f"{error.filename} cannot be read: {error.strerror}."
    ) from error
