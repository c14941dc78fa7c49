"""Records searches and clicks in the format of click events.

    EVENTS/events-20260131-HOST-PID-1.jsonl   see `categories.clicks.events`
    EVENTS/pictures/QUERY_ID.jpg              the pictures of queries
    EVENTS/queries.csv                        their table, for the click log
    EVENTS/search_ids.key                     the secret key of search IDs

A shown item is a row with `clicked` 0. Its click is a row with `clicked` 1 and
the same session and time, which are those of the search, so that both count as
one exposure. A query's ID is the digest of its picture, with its box if it has
one. Only searches without a text are recorded, since the categories of a
click log are found from pictures.

The ID of a search is signed, so that clients cannot report clicks on searches
that never happened. Pictures are kept a day longer than events, which are
removed a file at a time, so that each event's query remains in the table.
"""

import contextlib
import csv
import datetime
import fcntl
import hmac
import io
import json
import os
import pathlib
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple

from mixer_jax.data.images import faults
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import references

MAX_BYTES = 64_000_000  # per event file
_BACKLOG = 1000  # maximum number of pending searches and clicks
_MAX_HELD = 100_000_000  # bytes of their pictures
_DAY = 86_400  # seconds
_TABLE_INTERVAL = 600  # seconds between updates of the table of queries
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}
_SUFFIXES |= {"BMP": "bmp", "AVIF": "avif"}
_OTHER = "bin"
_QUERY = r"[0-9a-f]{32}(?:_[0-9]{1,9}){0,4}"
_SEARCH = re.compile(
    rf"([0-9]{{16}})-([0-9a-f]{{16}})-({_QUERY})-([0-9a-f]{{32}})"
)
_KEY, _KEY_BYTES = "search_ids.key", 32
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Search(NamedTuple):
    """The identity of a search; see `Recorder.parse`.

    Attributes:
      time: microseconds since 1970.
      session: random.
      query: the query's ID.
    """

    time: int
    session: str
    query: str


class Click(NamedTuple):
    """A clicked item; `position` counts from 0, and is -1 if unknown."""

    search: Search
    item: str
    position: int


class Recorder:
    """Writes events in its own thread; errors never stop a search.

    Attributes:
      days: how long files and pictures are kept.
      on_loss: called if an event could not be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        days: int,
        max_bytes: int = MAX_BYTES,
    ):
        """Creates the folder and removes old files.

        Raises:
          UserError: if the folder cannot be written.
        """
        self._folder = pathlib.Path(folder)
        files.check_folder(folder, "The events", ("queries.csv", _KEY))
        self._pictures = self._folder / "pictures"
        files.make_folder(self._pictures)
        self._key = _load_key(self._folder / _KEY)
        self.days, self._max_bytes = days, max_bytes
        self.on_loss: Callable[[], None] = lambda: None
        self._file: IO[str] | None = None
        self._day, self._count, self._tabled = "", 0, 0.0
        self._pending, self._held, self._is_reported = 0, 0, False
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, "events")
        self._submit(self._expire)

    def search(self, content: bytes, box: str, items: Sequence[str]) -> str:
        """Records a search.

        Args:
          content: the bytes of the picture.
          box: the part searched for, as in `data.images.crops`.
          items: the IDs of the items shown, in order.

        Returns:
          The ID of the search, for `parse`.
        """
        query = references.digest(content).hex()
        if box:
            query += "_" + box.replace(",", "_")
        now = time.time_ns() // 1000
        search = Search(now, secrets.token_hex(8), query)
        rows = [
            _row(search, item, place, clicked=0)
            for place, item in enumerate(items)
        ]
        size = len(content)
        self._submit(self._write_search, query, content, rows, size=size)
        plain = f"{search.time}-{search.session}-{search.query}"
        return f"{plain}-{self._sign(plain)}"

    def parse(self, text: str) -> Search | None:
        """Parses the ID of a search; returns None if it is not authentic."""
        found = _SEARCH.fullmatch(text)
        if not found:
            return None
        plain, _, signature = text.rpartition("-")
        if not hmac.compare_digest(signature, self._sign(plain)):
            return None
        return Search(int(found[1]), found[2], found[3])

    def _sign(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), "sha256").hex()[:32]

    def clicks(self, clicks: Iterable[Click]) -> None:
        """Records clicks."""
        self._submit(self._write_clicks, list(clicks))

    def close(self) -> None:
        """Writes pending events and the table of queries."""
        self._submit(self._end)
        self._executor.shutdown()

    def _submit(
        self, work: Callable[..., None], *arguments: Any, size: int = 0
    ) -> None:
        """Queues work holding `size` bytes; drops it if the queue is full."""
        with self._lock:
            is_full = self._pending >= _BACKLOG or self._held > _MAX_HELD
            if is_full:
                self.on_loss()
                return
            self._pending += 1
            self._held += size
        self._executor.submit(self._run, size, work, *arguments)

    def _run(
        self, size: int, work: Callable[..., None], *arguments: Any
    ) -> None:
        try:
            work(*arguments)
        except Exception as error:  # The search must not fail.
            self.on_loss()
            if not self._is_reported:
                reason = files.reason(error)
                print(
                    f"warning: events are not recorded: {reason}.",
                    file=sys.stderr,
                )
            self._is_reported = True
        else:
            self._is_reported = False
        finally:
            with self._lock:
                self._pending -= 1
                self._held -= size

    def _write_search(self, query: str, content: bytes, rows: list) -> None:
        suffix = _SUFFIXES.get(faults.identify(content) or "", _OTHER)
        path = self._pictures / f"{query}.{suffix}"
        try:
            os.utime(path)  # Keep pictures of recent searches.
        except FileNotFoundError:
            files.write(
                path, lambda draft: draft.write_bytes(content), one_of_many=True
            )
        self._write(rows)

    def _write_clicks(self, clicks: Sequence[Click]) -> None:
        """Writes the clicks whose searches were written."""
        known = [one for one in clicks if self._keep(one.search.query)]
        for _ in range(len(clicks) - len(known)):
            self.on_loss()
        if known:
            self._write([_row(*click, clicked=1) for click in known])

    def _keep(self, query: str) -> bool:
        """Resets the age of a picture; returns whether it exists."""
        for suffix in (*_SUFFIXES.values(), _OTHER):
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._pictures / f"{query}.{suffix}")
                return True
        return False

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        file = self._current()
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
        if time.monotonic() - self._tabled > _TABLE_INTERVAL:
            self._write_table()

    def _current(self) -> IO[str]:
        """Returns the open file for today."""
        day = _today()
        if self._file is not None:
            if day == self._day and self._file.tell() < self._max_bytes:
                return self._file
            self._file.close()
            self._file = None
            self._expire()
        self._day, self._count = day, self._count + 1
        host = re.sub("[^A-Za-z0-9]", "", socket.gethostname())[:32]
        name = f"events-{day}-{host}-{os.getpid()}-{self._count}.jsonl"
        file = open(self._folder / name, "a", encoding="utf-8")  # noqa: SIM115
        self._file = file
        return file

    def _expire(self) -> None:
        """Removes files older than `days`, and pictures a day later."""
        oldest = time.time() - self.days * _DAY
        _remove(self._folder.glob("events-*.jsonl"), oldest)
        # A file's last event may be a day younger than its first.
        _remove(_files(self._pictures), oldest - _DAY)
        self._write_table()

    def _write_table(self) -> None:
        """Writes the table of queries, from the names of their pictures."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["query_id", "image", "x1", "y1", "x2", "y2"])
        for path in sorted(_files(self._pictures)):
            box = path.stem.split("_")[1:] or [""] * 4
            writer.writerow([path.stem, f"pictures/{path.name}", *box])
        files.write_text(self._folder / "queries.csv", text.getvalue())
        self._tabled = time.monotonic()

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._write_table()


def _load_key(path: pathlib.Path) -> bytes:
    """Returns the key in a file that only its owner can read.

    Creates it if there is none. Processes that share the folder share the key.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with open(handle, "r+b") as file:
            with contextlib.suppress(OSError):  # some file systems lack locks
                fcntl.flock(file, fcntl.LOCK_EX)
            key = file.read()
            if len(key) < _KEY_BYTES:  # new, or interrupted
                key = secrets.token_bytes(_KEY_BYTES)
                file.seek(0)
                file.write(key)
            return key
    except OSError as error:
        raise UserError(
            f"The events cannot be recorded: {files.reason(error)}. Search IDs "
            f"are signed with the key in {path}; make it readable and writable "
            "for the server, or remove it."
        ) from error


def _remove(paths: Iterable[pathlib.Path], oldest: float) -> None:
    """Removes the files last changed before `oldest`, in seconds."""
    for path in paths:
        # Another process may have removed it.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _today() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%d}"


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [p for p in folder.iterdir() if re.fullmatch(_QUERY, p.stem)]


def _row(
    search: Search, item: str, position: int, *, clicked: int
) -> dict[str, Any]:
    moment = _EPOCH + datetime.timedelta(microseconds=search.time)
    row = {
        "query_id": search.query,
        "item_id": item,
        "time": moment.isoformat(),
        "clicked": clicked,
        "session": search.session,
    }
    return row | ({"position": position} if position >= 0 else {})
