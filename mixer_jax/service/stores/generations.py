"""The folder of an index: a record, and the file of its current generation.

    INDEX/index.json      the format, and the names of the current file and of
                          earlier ones that are kept
    INDEX/items-3.sqlite  the items; see `database`
    INDEX/items-3.users   locked by each process that uses the file

A rebuilt index is a new file. The record switches to it atomically, and the old
file is removed once no process uses it, unless it is kept for
`roll_back`.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mixer_jax.retrieval import folders
from mixer_jax.runtime import files, paths
from mixer_jax.runtime.errors import (
    NewerFormatError,
    PassingError,
    UserError,
)
from mixer_jax.service.stores import database

FORMAT = 3  # incremented on changes that older versions cannot read
INDEX = "index.json"
KIND = folders.Kind("index", INDEX, (INDEX,), INDEX, ("format", "items"))
_NAME = re.compile(r"items-([1-9][0-9]{0,17})\.sqlite")
_REMEDY = "build it again in another folder"


class _UnreadableError(UserError):
    """Error for an index that is intact, but unfinished or in an old format."""


def read(folder: str | os.PathLike) -> pathlib.Path:
    """Returns the file of the current generation.

    Raises:
      UserError: if there is no complete index, or it has another format.
    """
    return _read_files(folder)[0]


def earlier(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files that `roll_back` can return to, latest first.

    Raises:
      UserError: see `read`.
    """
    return [path for path in _read_files(folder)[1:] if path.exists()]


def _read_files(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the file of the current generation, and those kept."""
    folder = paths.local(folder, "An index")
    record = folder / INDEX
    if not os.path.isfile(record):
        raise UserError(
            f"There is no index in {folder}; build one with python -m "
            "mixer_jax.index build."
        )
    try:
        return [folder / name for name in _read_names(record)]
    except (NewerFormatError, _UnreadableError):
        raise
    except (OSError, ValueError) as error:
        files.check_fetched(record)
        raise UserError(
            f"The index in {folder} is damaged ({error}); {database.REMEDY}."
        ) from error


def _read_names(record: pathlib.Path) -> list[str]:
    """Returns the names of the current file, which must exist, and others."""
    subject = f"The index in {record.parent}"
    found = files.read_record(record, FORMAT, subject, _REMEDY)
    if found["format"] < FORMAT:
        raise _UnreadableError(
            f"{subject} has format {found['format']}, which this version of "
            f"mixer_jax no longer reads; {_REMEDY}, with python -m "
            "mixer_jax.index build."
        )
    name = found.get("items")
    if name == "":
        raise _UnreadableError(
            f"{subject} is not complete; repeat the command that builds it "
            "to resume."
        )
    # Never open or remove files that no writer has created.
    names = [name, *found.get("earlier", [])]
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a file of items")
    return names


@contextlib.contextmanager
def owned(folder: str | os.PathLike) -> Iterator[None]:
    """Reserves a folder while an index is built in it.

    Raises:
      UserError: if it has other contents, cannot be written or is in use.
    """
    folders.check(folder, KIND)
    for path in pathlib.Path(folder).glob("items-*"):
        if not path.is_file():
            raise UserError(
                f"An index cannot be written to {os.fspath(folder)}: {path} is "
                "a folder; remove it, or choose another folder."
            )
    with folders.owned(folder, KIND):
        yield


def reserve(folder: str | os.PathLike) -> None:
    """Marks a folder as that of an index; it may then hold other files.

    Only the owner of the folder may call this; see `folder_lock`.
    """
    folder = pathlib.Path(folder)
    files.make_folder(folder)
    if not (folder / INDEX).exists():
        _write(folder, "")


def begin(
    folder: str | os.PathLike, properties: dict[str, Any]
) -> pathlib.Path:
    """Returns the file of a new generation, which no reader sees yet.

    Continues the file of an interrupted build if it has the same properties.
    Only the owner of the folder may call this; see `folder_lock`.

    Args:
      folder: the index's folder, which may be missing.
      properties: identify the work; see `database.create`.
    """
    reserve(folder)
    folder = pathlib.Path(folder)
    current = _current(folder)
    # Files after the current one are drafts, or were rolled back.
    last = _number(current) if current else 0
    first = _first_number(folder, current)
    for path in _files(folder):
        if _number(path.name) > last:
            if _continues(path, properties):
                return path
            last = _number(path.name)
            first = max(first, _first_number(folder, path.name))
            _remove(path)
    path = folder / f"items-{last + 1}.sqlite"
    _remove(path)
    try:
        database.create(path, properties, first)
    except BaseException:
        _remove(path)
        raise
    return path


def _first_number(folder: pathlib.Path, current: str) -> int:
    """Returns a never-used number for the first vector."""
    if not current:
        return 1
    try:
        with using(folder / current) as old, old.reading() as connection:
            return database.last_numbers(connection)[0] + 1
    except PassingError:
        raise
    except (OSError, UserError):
        return 1  # The file to replace is missing or damaged.


def switch(path: pathlib.Path, keep: int = 0) -> None:
    """Makes a file the current generation; removes unused ones.

    Args:
      path: the file.
      keep: the maximum number of earlier generations to keep for `roll_back`.
    """
    current, *others = _recorded(path.parent) or [""]
    names = [one for one in (current, *others) if one not in ("", path.name)]
    _write(path.parent, path.name, names[:keep])
    clean(path.parent)


def roll_back(folder: pathlib.Path) -> pathlib.Path:
    """Makes the latest kept generation the current one.

    The next `begin` removes the file of the abandoned generation.

    Returns:
      The file of the generation that is now current.

    Raises:
      UserError: if none is kept.
    """
    kept = earlier(folder)
    if not kept:
        raise UserError(
            f"The index in {folder} has no earlier generation to return to; "
            "python -m mixer_jax.index rebuild keeps some with --keep=N."
        )
    _write(folder, kept[0].name, [path.name for path in kept[1:]])
    return kept[0]


def clean(folder: pathlib.Path) -> None:
    """Removes files of earlier generations that are neither used nor kept."""
    current, *kept = _recorded(folder) or [""]
    if not current:
        return
    for path in _files(folder):
        if _number(path.name) < _number(current) and path.name not in kept:
            with contextlib.suppress(OSError), _unused(path):
                _remove(path)


@contextlib.contextmanager
def using(path: pathlib.Path) -> Iterator[database.Database]:
    """Opens a file of items; it is not removed before the block ends."""
    lock = lock_users(path)
    try:
        with contextlib.closing(database.Database(path)) as opened:
            yield opened
    finally:
        os.close(lock)


def lock_users(path: pathlib.Path) -> int:
    """Returns a file descriptor; the file of items is kept while it is open.

    Raises:
      OSError: if the file has just been removed.
    """
    try:
        lock = os.open(_users(path), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        if os.access(path.parent, os.W_OK):
            raise
        return os.open(path.parent, os.O_RDONLY)  # files cannot be removed
    # Without locks, as on some network file systems, files may be removed
    # while in use, which does not harm the processes that use them.
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_SH)
    if path.exists():
        return lock
    os.close(lock)
    raise FileNotFoundError(f"{path} was removed")


def _write(folder: pathlib.Path, name: str, others: Sequence[str] = ()) -> None:
    record = {"format": FORMAT, "items": name}
    if others:
        record["earlier"] = list(others)
    files.write_text(folder / INDEX, json.dumps(record) + "\n")


def _current(folder: pathlib.Path) -> str:
    """Returns the name of the current file; "" if there is none."""
    return (_recorded(folder) or [""])[0]


def _recorded(folder: pathlib.Path) -> list[str]:
    """Returns the names of the current and the kept files, if any."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((folder / INDEX).read_text("utf-8"))
        names = [record["items"], *record.get("earlier", [])]
        return names if all(map(_NAME.fullmatch, names)) else []
    return []


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: _number(path.name))


def _number(name: str) -> int:
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0


def _continues(path: pathlib.Path, properties: dict[str, Any]) -> bool:
    """Returns whether an unfinished file was begun with these properties."""
    try:
        with contextlib.closing(database.Database(path)) as opened:
            found = opened.properties()
    except UserError:
        return False
    return {key: found.get(key) for key in properties} == properties


def _remove(path: pathlib.Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    _users(path).unlink(missing_ok=True)


def _users(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".users")


@contextlib.contextmanager
def _unused(path: pathlib.Path) -> Iterator[None]:
    """Keeps others from using a file; raises `OSError` if it is in use."""
    lock = os.open(_users(path), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)
