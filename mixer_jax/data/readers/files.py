"""Reads text, CSV and JSON files; errors name the place in the file."""

import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mixer_jax.data.readers.rows import Format
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import csv_files
from mixer_jax.runtime.text import listing, quoted

_CHUNK = 1 << 20  # JSON characters read at a time
_BETWEEN = re.compile(r"[\s,]*")
# Errors raised by Python's parser, including those for numbers with thousands
# of digits (ValueError) and for deeply nested objects (RecursionError).
_JSON_ERRORS = (ValueError, RecursionError)


def find(root: Path, name: str) -> Path | None:
    """Returns a data set's file, or None if it is missing; see `require`."""
    either = (root / path for path in name.split("|"))
    return next((path for path in either if path.exists()), None)


def require(one: Format, root: Path, *names: str) -> list[Path]:
    """Returns the paths of a data set's files.

    Args:
      one: the data set's format.
      root: the data set's folder.
      names: paths relative to the folder; "a|b" is a, or b if a is missing.

    Raises:
      UserError: if a file is missing; lists all files of the data set.
    """
    paths = []
    for name in names:
        path = find(root, name)
        if path is None:
            raise missing(one, root, name.replace("|", " or "))
        paths.append(path)
    return paths


def missing(one: Format, root: Path, name: str) -> UserError:
    """Returns an error that names a missing file and lists the set's files."""
    lines = "".join(f"\n  {line}" for line in one.files)
    return UserError(
        f"There is no {name} in {root}. Files of {one.title}, relative to "
        f"--root:{lines}"
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.TextIOBase]:
    """Opens a UTF-8 text file, plain or `.gz`, with or without a BOM.

    Raises:
      UserError: if the file cannot be read; also raised within the `with`
        block.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} cannot be read: it is not a regular file.")
    try:
        with (
            _bytes(path) as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def _bytes(path: Path) -> BinaryIO:
    packed = path.suffix.lower() == ".gz"
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _not_utf8(path: Path) -> UserError:
    with _bytes(path) as file:
        kind = csv_files.find_kind(file.peek(4))
        if kind:
            return UserError(
                f"{path} is not UTF-8 text but {kind}; save it again as UTF-8."
            )
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return UserError(
                    f"{path} is not UTF-8 text: line {number} has bytes in "
                    f"another encoding ({error.reason}); save it again as "
                    "UTF-8."
                )
    return UserError(f"{path} is not UTF-8 text; save it again as UTF-8.")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the 1-based number and stripped text of each non-blank line."""
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.strip()


def records(
    path: Path, columns: Sequence[str], delimiter: str = ",", hint: str = ""
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields a CSV file's records.

    Args:
      path: the file; its first line names the columns.
      columns: the required columns.
      delimiter: the character between two cells.
      hint: appended to the error message if the header is a single cell.

    Yields:
      `(where, cells)`: file and line for messages, and the cells by column.

    Raises:
      UserError: names the file, line and column of the error.
    """
    try:
        with opened(path) as file:
            header: list[str] = []
            rows = csv_files.records(file, delimiter, strict=True)
            for line, cells in rows:
                where = f"{path}, line {line}"
                if not header:
                    header = [name.strip() for name in cells]
                    alone = hint if len(header) == 1 else ""
                    _check_header(header, columns, where, alone)
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"{where}: the row has {len(cells)} cells, but the "
                        f"header has {len(header)}."
                    )
                yield where, dict(zip(header, cells, strict=True))
            if not header:
                raise UserError(f"{path} is empty.")
    except csv_files.RecordError as error:
        raise UserError(
            f"{path}, line {error.line}: invalid CSV: {error.reason}; is there "
            "an unclosed quote, or text after a closing quote?"
        ) from error


def _check_header(
    header: Sequence[str], columns: Sequence[str], where: str, hint: str
) -> None:
    for name in columns:
        if name not in header:
            raise UserError(
                f"{where}: there is no column {name!r}; the columns are "
                f"{listing(header)}{hint}."
            )
        if header.count(name) > 1:
            raise UserError(
                f"{where}: the column {name!r} occurs more than once."
            )


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `(where, object)` for each line of a JSON Lines file."""
    for number, line in lines(path):
        where = f"{path}, line {number}"
        try:
            item = json.loads(line)
        except _JSON_ERRORS as error:
            raise UserError(
                f"{where}: invalid JSON: {_reason(error)}."
            ) from error
        yield where, _object(item, where)


def json_items(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a long list without keeping the list in memory.

    Args:
      path: a JSON file, `{"key": [{...}, ...], ...}` or only the list.
      key: the list's key.

    Yields:
      `(where, object)`: file and 1-based number for messages, and the object.

    Raises:
      UserError: if the list is missing, or the file is not JSON.
    """
    decoder, number = json.JSONDecoder(), 0
    start = re.compile(rf'^\s*\[|"{re.escape(key)}"\s*:\s*\[')
    with opened(path) as file:
        text = file.read(_CHUNK)
        while not (found := start.search(text)):
            more = file.read(_CHUNK)
            if not more:
                raise UserError(f"{path} has no list {key!r}.")
            text += more
        at = found.end()
        while True:
            at = _BETWEEN.match(text, at).end()
            if text.startswith("]", at):
                return
            where = f"{path}, {key} {number + 1}"
            try:
                item, at = decoder.raw_decode(text, at)
            except _JSON_ERRORS as error:
                # The object may continue beyond the text read so far.
                is_incomplete = isinstance(error, json.JSONDecodeError)
                more = is_incomplete and file.read(max(_CHUNK, len(text) - at))
                if not more:
                    raise UserError(
                        f"{where}: invalid JSON: {_reason(error)}."
                    ) from error
                text, at = text[at:] + more, 0
                continue
            number += 1
            yield where, _object(item, where)


def json_list(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns `(where, object)` for each object in a file with one list."""
    with opened(path) as file:
        try:
            items = json.load(file)
        except _JSON_ERRORS as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise UserError(
                f"{path} is not valid JSON: {_reason(error)}."
            ) from error
    if not isinstance(items, list):
        raise UserError(f"{path} is not a JSON list.")
    places = [f"{path}, item {n}" for n in range(1, len(items) + 1)]
    return [(a, _object(b, a)) for a, b in zip(places, items, strict=True)]


def _object(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected a JSON object.")
    return item


def check_words(
    words: Sequence[str], columns: Sequence[str], where: str
) -> None:
    """Raises a `UserError` if a line does not have one word per column."""
    if len(words) != len(columns):
        raise UserError(
            f"{where}: the line has {len(words)} words, but the columns are "
            f"{', '.join(columns)}."
        )


def cell(item: dict[str, Any], key: str, where: str) -> str:
    """Returns a required value as a string.

    Raises:
      UserError: if it is missing, empty, or neither a string nor an integer.
    """
    value = item.get(key)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UserError(
        f"{where}, column {key}: expected a non-empty string or an integer, "
        f"not {quoted(value)}."
    )


def values(item: dict[str, Any], key: str, where: str) -> list[Any]:
    """Returns an optional list, [] if it is missing.

    Raises:
      UserError: if the value is not a list.
    """
    value = item.get(key)
    if value is None or isinstance(value, list):
        return value or []
    raise UserError(
        f"{where}, column {key}: expected a list, not {quoted(value)}."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too many nested brackets"
    return getattr(error, "msg", str(error))
