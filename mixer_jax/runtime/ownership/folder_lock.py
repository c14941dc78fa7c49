"""Exclusive use of a folder or file: a second run is rejected.

    with folder_lock.hold(workdir, "--workdir") as owner:
        ...  # `files.write` raises if another run has taken over the folder.
        owner.check()  # before other writes that would harm that run's files

    FOLDER/.owner       locked by the owner's process, on this machine
    FOLDER/.owner.json  the owner: its host, process, start and token

On one machine, a file lock excludes other processes. The kernel releases it
when its process dies, so a restart on the same machine never waits. Across
machines, locks may not work (network file systems, buckets), so the owner
updates its record every few seconds. A record of another machine is stale if it
has not been updated for a minute, by the storage's clock; it is then replaced.

JAX and the libraries for buckets are imported only where they are used, because
Beam's environment lacks them.
"""

import contextlib
import hashlib
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Union

from mixer_jax.runtime import files
from mixer_jax.runtime.errors import LostError, UserError
from mixer_jax.runtime.ownership import guards, owner_record
from mixer_jax.runtime.ownership.owner_record import Record
from mixer_jax.runtime.ownership.owner_store import Folder, Seen

if TYPE_CHECKING:
    from mixer_jax.runtime.ownership.bucket_store import Bucket

Store = Union[Folder, "Bucket"]

BEAT = 10.0  # seconds between heartbeats
STALE = 60.0  # seconds without a heartbeat until an owner counts as dead

_POLL = 1.0  # seconds between reads of a record that may be stale
_POLL_DYING = 0.05  # seconds between checks of a process being killed


class _Used(NamedTuple):
    """The owned folder or file, as named in messages."""

    name: str
    kind: str  # "folder" or "file"
    flag: str  # the flag that sets its path


class Owner:
    """The owner of a folder or file within a `hold` block."""

    def __init__(self, store: Store | None, record: Record, used: _Used):
        """Starts the heartbeats if there is a store.

        Args:
          store: the record's storage; None in processes other than 0.
          record: this process's record.
          used: the owned folder or file.
        """
        self._store, self._record, self._used = store, record, used
        self._over = threading.Event()
        self._lost = False  # whether the last heartbeat saw a new owner
        self._thread = threading.Thread(target=self._beat, daemon=True)
        if store is not None:
            self._thread.start()

    def check(self) -> None:
        """Checks that no other run has taken over the folder.

        Raises:
          LostError: if another run has; the message names that run.
        """
        if self._store is None:
            return
        try:
            seen = self._store.read()
        except self._store.failures:
            return  # The write that follows will report the error.
        if seen.is_of(self._record):
            return
        folder = self._store.folder
        stops = "This run stops and writes nothing further."
        if seen.record is None:
            raise LostError(
                f"{folder} was moved, removed or emptied while this run was "
                f"using it. {stops} To resume, give the folder's current path."
            )
        raise LostError(
            f"Another run has taken over {self._used.name}: {seen.record}. "
            f"No heartbeat from this run reached it for {STALE:.0f} seconds, "
            f"or its .owner files were deleted. {stops}"
        )

    def check_heard(self) -> None:
        """Like `check`, but reads nothing unless a heartbeat has failed."""
        if self._lost:
            self.check()

    def close(self) -> None:
        """Stops the heartbeats and releases the folder."""
        if self._store is None:
            return
        self._over.set()
        self._thread.join()
        self._store.close(self._record)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            # The next heartbeat may reach the storage again.
            with contextlib.suppress(*self._store.failures):
                self._lost = not self._store.beat(self._record)


@contextlib.contextmanager
def hold(
    folder: str | os.PathLike,
    flag: str,
    *,
    part: str = "",
    together: bool = False,
    say: Callable[[str], None] | None = None,
    file: str = "",
) -> Iterator[Owner]:
    """Takes ownership of a folder for a block; creates the folder if missing.

    Args:
      folder: a local folder, or one in a bucket.
      flag: the flag that sets the folder, for error messages.
      part: the part of the folder to own; several runs can own one part each.
      together: whether several processes form one run. If so, process 0 takes
        the folder, and all processes succeed or fail together.
      say: called with a message if it takes up to a minute to find out whether
        the owner is alive; prints to standard error by default.
      file: the path of the owned file, for error messages; "" if the folder is
        owned.

    Raises:
      UserError: if another run owns the folder (the message names its host,
        process and start time) or the folder cannot be written to.
    """
    record = owner_record.make()
    store, problem = _store(folder, part), ""
    used = _Used(os.fspath(folder), "folder", flag)
    if file:
        used = _Used(file, "file", flag)
    if not together or _is_first():
        try:
            _take(store, record, used, say or _print)
        except UserError as error:
            problem = str(error)
    else:
        store = None
    if together:
        from mixer_jax.runtime import processes

        problem = processes.gather("owner", problem)[0]
    if problem:
        raise UserError(problem)
    owner = None
    try:
        owner = Owner(store, record, used)
        guarded = file or ("" if part else folder)
        with _leaving(owner.close), _guarded(store, guarded, owner):
            yield owner
    finally:
        try:
            _release(owner, store, record)
        except BaseException:  # an interrupt, raised only once
            _release(owner, store, record)
            raise


def hold_file(
    path: str | os.PathLike, flag: str, *, together: bool = False
) -> contextlib.AbstractContextManager[Owner]:
    """Takes ownership of a file for a block, following symbolic links.

    Args:
      path: the file; its folder is created if missing.
      flag: the flag that sets the file, for error messages.
      together: see `hold`.

    Raises:
      UserError: see `hold`.
    """
    name = place = os.fspath(path)
    if "://" not in name:
        place = os.fspath(files.resolve(path))
    folder, _, file = place.rpartition("/")
    # The file name itself may be too long to be part of another name.
    part = hashlib.sha256(os.fsencode(file)).hexdigest()[:12]
    return hold(
        folder or "/", flag, part=f"-{part}", file=name, together=together
    )


def _store(folder: str | os.PathLike, part: str) -> Store:
    if "://" not in os.fspath(folder):
        files.check_name(os.fspath(folder))
        return Folder(pathlib.Path(folder), part)
    from mixer_jax.runtime import paths
    from mixer_jax.runtime.ownership import bucket_store

    return bucket_store.Bucket(paths.make(folder), part)


def _is_first() -> bool:
    import jax

    return jax.process_index() == 0


def _leaving(
    action: Callable[[], None],
) -> contextlib.AbstractContextManager[None]:
    """See `processes.leaving`; does nothing in a process without JAX."""
    if sys.modules.get("jax") is None:
        return contextlib.nullcontext()
    from mixer_jax.runtime import processes

    return processes.leaving(action)


def _guarded(
    store: Store | None, path: str | os.PathLike, owner: Owner
) -> contextlib.AbstractContextManager[None]:
    if not path or not isinstance(store, Folder):
        return contextlib.nullcontext()
    return guards.guarded(files.resolve(path), owner.check)


def _release(owner: Owner | None, store: Store | None, record: Record) -> None:
    if owner is not None:
        owner.close()
    elif store is not None:  # interrupted before the heartbeats began
        store.close(record)


def _take(
    store: Store,
    record: Record,
    used: _Used,
    say: Callable[[str], None],
) -> None:
    """Writes the record, unless another run owns the folder."""
    try:
        locked = _lock(store)
        seen = store.read()
        if locked is not None:
            free = _wait_until_free(seen, locked, store, say, used.name)
            if free is not None:
                store.write(record, free.version)
                seen = store.read()
        if not seen.is_of(record):
            raise _refusal(used, seen.record)
    except BaseException as error:  # including an interrupt while waiting
        store.close(record)
        failed = isinstance(error, store.failures)
        if isinstance(error, UserError) or not failed:
            raise
        raise UserError(
            f"{store.folder} cannot be written to: {store.reason(error)}. "
            f"Choose another {used.kind} with {used.flag}."
        ) from error


def _lock(store: Store) -> bool | None:
    """Locks a folder.

    Returns:
      True if this process now holds the lock, None if another process does,
      False if locks are not supported.
    """
    deadline = time.monotonic() + STALE
    while True:
        locked = store.lock()
        if locked is not None or time.monotonic() > deadline:
            return locked
        # A killed process keeps its lock until its memory is freed.
        current = store.read().record
        if current is None or not current.is_seen() or current.is_alive():
            return None
        time.sleep(_POLL_DYING)


def _wait_until_free(
    seen: Seen,
    locked: bool,
    store: Store,
    say: Callable[[str], None],
    name: str,
) -> Seen | None:
    """Returns the record to replace; None if its owner is alive.

    Args:
      seen: the stored record.
      locked: whether this process has locked the folder.
      store: the record's storage.
      say: see `hold`.
      name: the name of the owned folder or file.
    """
    if seen.version is None:
        return seen
    current = seen.record
    if current is not None and current.is_seen():
        if not current.is_alive():
            return seen
        if not locked:
            return None
        # The lock file was deleted or the folder copied: wait for a heartbeat.
    elif current is not None and current.is_of_this_machine() and locked:
        return seen
    left = STALE - max(seen.age(), 0.0)
    if left > 0:
        who = "another run" if current is None else current
        say(
            f"{name} was last used by {who}. Waiting up to {left:.0f} s to "
            "see whether that run is still alive."
        )
    end = time.monotonic() + left
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(_POLL, left))
        now = store.read()
        if now.version != seen.version:
            return now if now.version is None else None
    return seen


def _refusal(used: _Used, current: Record | None) -> UserError:
    who = "" if current is None else f": {current}"
    return UserError(
        f"Another run is using {used.name}{who}. Choose another {used.kind} "
        f"with {used.flag}, or wait until that run has ended."
    )


def _print(message: str) -> None:
    print(message, file=sys.stderr)
