"""One run at a time in a folder: a second one is refused.

    with ownership.hold(workdir, "--workdir") as owner:
        ...
        owner.check()  # before a write that would harm another owner's files

    FOLDER/.owner       locked by the owner's process, on this machine
    FOLDER/.owner.json  the owner: its host, process, start and token

Processes of one machine exclude each other by a file lock, which the kernel
drops when a process dies: a restart on the same machine never waits. Across
machines a lock may not work (network file systems, buckets), so the owner
touches its record every few seconds. A record of another machine that has not
been touched for a minute, by the storage's clock, is stale and is replaced.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from mixer_jax import paths, processes
from mixer_jax.errors import UserError
from mixer_jax.runtime import owner_record
from mixer_jax.runtime.owner_record import Record
from mixer_jax.runtime.owner_store import Bucket, Folder, Seen

BEAT = 10.0  # seconds between two heartbeats
STALE = 60.0  # seconds without a heartbeat after which an owner is dead

_POLL = 1.0  # seconds between two looks at a record that may be stale
_DYING = 0.05  # seconds between two looks at a process that is being killed


class LostError(UserError):
    """Another run has taken the folder over."""


class Owner:
    """The owner of a folder, as long as `hold` lasts."""

    def __init__(self, store: Folder | Bucket | None, record: Record):
        """Begins to send heartbeats, unless there is no store.

        Args:
          store: where the record is; None in processes other than 0.
          record: of this process.
        """
        self._store, self._record = store, record
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        if store is not None:
            self._thread.start()

    def check(self) -> None:
        """Checks that no other run has taken the folder over.

        Raises:
          LostError: names the other run.
        """
        if self._store is None:
            return
        try:
            there = self._store.read().record
        except paths.failures():
            return  # The write that follows says what is wrong.
        if there is not None and there.token == self._record.token:
            return
        other = "" if there is None else f": {there}"
        raise LostError(
            f"{self._store.folder} is no longer this run's. Another run has "
            f"taken it over{other}, which happens after {STALE:.0f} seconds "
            "without a sign of life. This run stops and writes no other "
            "checkpoint."
        )

    def close(self) -> None:
        """Ends the heartbeats and gives the folder up."""
        if self._store is None:
            return
        self._over.set()
        self._thread.join()
        self._store.close(self._record)

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            # The next one may reach the storage again.
            with contextlib.suppress(*paths.failures()):
                self._store.beat(self._record)


@contextlib.contextmanager
def hold(
    folder: str | os.PathLike,
    flag: str,
    *,
    part: str = "",
    together: bool = False,
    say: Callable[[str], None] | None = None,
) -> Iterator[Owner]:
    """Owns a folder for the length of a block; makes it if it is missing.

    Args:
      folder: local or in a bucket.
      flag: that names the folder, for the sentence.
      part: of the folder, where runs share the rest of it.
      together: whether several processes are one run. Then process 0 takes
        the folder, and all of them succeed or fail alike.
      say: is told that it may take a minute to see whether the owner is
        alive; default standard error.

    Raises:
      UserError: if another run owns the folder (names its host, process and
        start) or it cannot be written to.
    """
    folder = paths.make(folder)
    record = owner_record.make()
    store, problem = None, ""
    if not together or jax.process_index() == 0:
        store = (Bucket if paths.is_remote(folder) else Folder)(folder, part)
        try:
            _take(store, record, flag, say or _print)
        except UserError as error:
            problem = str(error)
    if together:
        problem = processes.gather("owner", problem)[0]
    if problem:
        raise UserError(problem)
    owner = Owner(store, record)
    try:
        with processes.leaving(owner.close):
            yield owner
    finally:
        owner.close()


def _take(
    store: Folder | Bucket,
    record: Record,
    flag: str,
    say: Callable[[str], None],
) -> None:
    """Writes the record, unless another run owns the folder."""
    try:
        locked = _lock(store)
        seen = store.read()
        if locked is not None:
            free = _wait_until_free(seen, locked, store, say)
            if free is not None and store.write(record, free.version):
                seen = store.read()
        if seen.record is None or seen.record.token != record.token:
            store.close(record)
            raise _refusal(store.folder, flag, seen.record)
    except UserError:
        raise
    except paths.failures() as error:
        store.close(record)
        raise UserError(
            f"{store.folder} cannot be written to: {paths.reason(error)}. "
            f"Name another folder by {flag}."
        ) from error


def _lock(store: Folder | Bucket) -> bool | None:
    """Locks a folder.

    Returns:
      None if another process has locked it, False if locks do not work there.
    """
    deadline = time.monotonic() + STALE
    while True:
        locked = store.lock()
        if locked is not None or time.monotonic() > deadline:
            return locked
        # A process that was killed keeps its lock until its memory is freed.
        there = store.read().record
        if there is None or not there.is_of_this_machine() or there.is_alive():
            return None
        time.sleep(_DYING)


def _wait_until_free(
    seen: Seen,
    locked: bool,
    store: Folder | Bucket,
    say: Callable[[str], None],
) -> Seen | None:
    """Returns the record to replace; None if its owner is alive.

    Args:
      seen: the record as it is now.
      locked: whether this process has locked the folder.
      store: of the record.
      say: see `hold`.
    """
    if seen.version is None:
        return seen
    there = seen.record
    if there is not None and there.is_of_this_machine():
        return seen if locked or not there.is_alive() else None
    left = STALE - max(seen.age(), 0.0)
    if left > 0:
        who = "another run" if there is None else there
        say(
            f"{store.folder} was last used by {who}. Waiting at most "
            f"{left:.0f} s to see whether that run is alive."
        )
    end = time.monotonic() + left
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(_POLL, left))
        now = store.read()
        if now.version != seen.version:
            return now if now.version is None else None
    return seen


def _refusal(folder: paths.Path, flag: str, there: Record | None) -> UserError:
    who = "" if there is None else f": {there}"
    return UserError(
        f"Another run is using {folder}{who}. Name another folder by {flag}, "
        "or wait until that run has ended."
    )


def _print(text: str) -> None:
    print(text, file=sys.stderr)
