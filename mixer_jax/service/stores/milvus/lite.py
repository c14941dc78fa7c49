"""Milvus Lite, which runs in this process and stores a database in a folder.

One process at a time can open a database. Lite writes from one thread, and its
readers miss rows while it moves them from memory to a file, so the calls of all
stores of a database take turns.

Acknowledged writes are in Lite's write-ahead log in the page cache, and survive
the death of the process, but not necessarily a power failure. Lite writes the
files of HNSW indexes in place, so a killed process may leave damaged ones;
`remove_index_files` makes Lite build them again from the vectors.
"""

import contextlib
import fcntl
import os
import pathlib
import threading
from collections.abc import Iterator

from mixer_jax.runtime.errors import UserError

_registry = threading.Lock()
_opened: dict[str, "Database"] = {}


class Database:
    """An opened database, which all stores of this process share.

    Attributes:
      turn: a lock, held during each call.
    """

    def __init__(self, path: str):
        """Takes the absolute path; use `opened`."""
        self._path, self.users = path, 0
        self.turn = threading.RLock()

    def close(self) -> None:
        """Releases a use; the last release stops Lite and unlocks it."""
        with _registry:
            self.users -= 1
            if self.users:
                return
            _opened.pop(self._path, None)
            from milvus_lite.server_manager import server_manager_instance

            with self.turn:
                server_manager_instance.release_server(self._path)


def opened(path: str | os.PathLike) -> Database:
    """Returns a database, counting its users until `Database.close`."""
    path = os.path.abspath(path)
    with _registry:
        found = _opened.setdefault(path, Database(path))
        found.users += 1
        return found


def check_folder(path: str | os.PathLike) -> None:
    """Raises a `UserError` if a folder has contents but is not a database."""
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(path)
        if names and "collections" not in names:
            raise UserError(
                f"{os.fspath(path)} is a folder, but not a Milvus Lite "
                "database; choose another name that ends in .db."
            )


def is_locked(path: str | os.PathLike) -> bool:
    """Returns whether another process has opened a database."""
    with contextlib.suppress(OSError), _lock_file(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _lock_file(path: str | os.PathLike) -> Iterator[int]:
    lock = os.open(os.path.join(path, "LOCK"), os.O_RDWR)
    try:
        yield lock
    finally:
        os.close(lock)


def remove_index_files(path: str | os.PathLike, collection: str) -> None:
    """Removes the files of a collection's indexes."""
    folder = pathlib.Path(path) / "collections" / collection / "partitions"
    for file in folder.glob("*/indexes/*"):
        file.unlink(missing_ok=True)
