"""The SQLite file of an index's items: schema, transactions and errors.

    meta      properties of the index, as JSON by key
    items     one row per item
    vectors   one row per vector; a row never changes its number or embedding,
              and numbers are never reused; `place` orders an item's vectors
    pictures  thumbnails
    removals  the numbers of removed vectors, in order

The last number of `vectors` and the last sequence of `removals` tell a reader
what has changed since its last read. A transaction is synced to disk before the
call that made it returns.
"""

import contextlib
import json
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import PassingError, UserError

REMEDY = "build it again with python -m mixer_jax.index build"
_TIMEOUT = 60.0  # seconds to wait for another writer
_CACHE = 64 << 10  # KiB of pages in memory
_PAGE = 8192  # bytes
_MAPPED = 1 << 40  # bytes; limited by SQLite to the size of the file and 2 GB
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
  item INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  text TEXT NOT NULL,
  "group" TEXT NOT NULL,
  category TEXT NOT NULL,
  fields TEXT NOT NULL
);
CREATE TABLE vectors (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  item INTEGER NOT NULL,
  content BLOB NOT NULL,
  embedding BLOB NOT NULL,
  image TEXT NOT NULL,
  place INTEGER NOT NULL
);
CREATE INDEX vectors_of_items ON vectors (item);
CREATE TABLE pictures (number INTEGER PRIMARY KEY, thumbnail BLOB NOT NULL);
CREATE TABLE removals (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL
);
CREATE TRIGGER removed AFTER DELETE ON vectors BEGIN
  INSERT INTO removals (number) VALUES (old.number);
  DELETE FROM pictures WHERE number = old.number;
END;
"""


class Database:
    """Access to the file; all methods are thread-safe.

    Reads and writes have a connection each, so that reads do not wait for a
    write that another process delays.

    Attributes:
      path: the file.
    """

    def __init__(self, path: str | os.PathLike):
        """Opens a file that `create` has made.

        Raises:
          UserError: if it is missing or damaged.
        """
        self.path = pathlib.Path(path)
        self._reader = _Connection(self.path)
        self._writer = _Connection(self.path)  # opened by the first write
        with self._reader.used():
            pass

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection in a transaction that sees a consistent state.

        Within `writing`, this is the state before the write.
        """
        with self._reader.transaction("DEFERRED") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection; commits after the block, or rolls back."""
        with self._writer.transaction("IMMEDIATE") as connection:
            yield connection

    @property
    def state(self) -> int:
        """A number that changes with the contents, for use in `reading`."""
        with self.reading() as connection:
            # The pragma notices changes only when a statement reads the file.
            connection.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
            return connection.execute("PRAGMA data_version").fetchone()[0]

    def properties(self) -> dict[str, Any]:
        """Returns the contents of the table `meta`."""
        with self.reading() as connection:
            rows = connection.execute("SELECT key, value FROM meta")
            return {key: json.loads(value) for key, value in rows}

    def set(self, **properties: Any) -> None:
        """Writes rows of the table `meta`."""
        rows = [(key, json.dumps(one)) for key, one in properties.items()]
        with self.writing() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", rows
            )

    def flush(self) -> None:
        """Copies the write-ahead log into the file.

        Raises:
          PassingError: if other processes use the log for too long.
        """
        with self._writer.used() as connection:
            statement = "PRAGMA wal_checkpoint(TRUNCATE)"
            is_busy, *_ = connection.execute(statement).fetchone()
        if is_busy:
            raise _locked(self.path)

    def close(self) -> None:
        """Closes the file; the last connection to close removes the log."""
        self._reader.close()
        self._writer.close()


class _Connection:
    """A connection that one thread uses at a time; opened on first use."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._lock = threading.RLock()
        self._depth = 0
        self._opened: sqlite3.Connection | None = None
        self._is_closed = False

    @contextlib.contextmanager
    def used(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection; converts SQLite errors to a `UserError`."""
        with self._lock, _explained(self._path):
            if self._is_closed:
                raise sqlite3.ProgrammingError("the file was closed")
            if self._opened is None:
                self._opened = _open(self._path)
            yield self._opened

    @contextlib.contextmanager
    def transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """Yields the connection; commits after the block, or rolls back."""
        with self.used() as connection:
            if self._depth:  # inside another transaction of this thread
                yield connection
                return
            connection.execute(f"BEGIN {kind}")
            self._depth += 1
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back some failed transactions.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._opened is not None:
                self._opened.close()


def create(
    path: pathlib.Path, properties: dict[str, Any], first: int = 1
) -> None:
    """Creates the file of an index without items.

    Args:
      path: the file, which must not exist.
      properties: the contents of the table `meta`.
      first: the number of the first vector.

    Raises:
      UserError: if it cannot be written.
    """
    rows = [(key, json.dumps(value)) for key, value in properties.items()]
    with contextlib.closing(_connect(path, "rwc")) as connection:
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            connection.execute(
                "INSERT INTO sqlite_sequence VALUES ('vectors', ?)",
                [first - 1],
            )
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise explain(error, path) from error


def last_numbers(connection: sqlite3.Connection) -> tuple[int, int]:
    """Returns the last number of `vectors` and sequence of `removals`."""
    rows = dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
    return rows.get("vectors", 0), rows.get("removals", 0)


def _open(path: pathlib.Path) -> sqlite3.Connection:
    """Opens a file, and checks that it is a file of items."""
    connection = _connect(path, _mode(path))
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA mmap_size = {_MAPPED}")
        connection.execute("SELECT count(*) FROM meta").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _mode(path: pathlib.Path) -> str:
    """Returns the mode for opening a file that may be in a read-only folder."""
    if os.access(path.parent, os.W_OK):
        return "rw"
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        return "ro&immutable=1"  # No process has it open for writing.
    if not os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        return "ro"  # A process of another user may be writing.
    if log.stat().st_size:
        raise UserError(
            f"The index in {path.parent} cannot be opened: it was copied while "
            "it was being written, and its file system is read-only; make it "
            "writable."
        )
    return "ro&immutable=1"


def _connect(path: pathlib.Path, mode: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise explain(error, path) from error


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _locked(path: pathlib.Path) -> PassingError:
    return PassingError(
        f"The index in {path.parent} has been locked by another process for "
        f"more than {_TIMEOUT:.0f} seconds; try again later."
    )


def explain(error: sqlite3.Error, path: pathlib.Path) -> UserError:
    """Converts an SQLite error to a `UserError` that names a remedy."""
    name = getattr(error, "sqlite_errorname", "")
    subject = f"The index in {path.parent}"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return _locked(path)
    if name.startswith("SQLITE_FULL"):
        return UserError(
            f"{subject} cannot be written: No space left on its disk. Earlier "
            "writes are intact; free some space and repeat the command."
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return UserError(
            f"{subject} cannot be opened ({error}); it needs the file "
            f"{path.name}, and write access to the file and its folder."
        )
    files.check_fetched(path)
    return UserError(f"{subject} is damaged ({error}); {REMEDY}.")
