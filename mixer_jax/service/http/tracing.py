"""Gives each request an ID, counts it, and logs it as a line of JSON."""

import contextlib
import datetime
import json
import queue
import random
import re
import sys
import threading
import time
from typing import IO, Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixer_jax.service.http.metrics import Metrics

HEADER = "X-Request-ID"
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}
_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WAITING = 10_000  # maximum number of pending lines; others are dropped
_FLUSH = 5  # seconds to write pending lines at shutdown


def with_tracing(
    app: ASGIApp, metrics: Metrics, log: bool, stream: IO[str] | None = None
) -> ASGIApp:
    """Returns the application with request IDs, metrics and a log.

    A valid X-Request-ID header of the request is kept. The ID is in
    the response's header, in `scope["state"]["request_id"]`, and in the log.

    Args:
      app: the application.
      metrics: counts the requests.
      log: whether to log each request.
      stream: where to log; default: standard error.
    """
    lines = _Log(stream) if log else None
    # Not `secrets`: its system call releases the global interpreter lock, and
    # the event loop would wait milliseconds to get it back from busy threads.
    numbers = random.Random()

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            if lines is not None and scope["type"] == "lifespan":
                await anyio.to_thread.run_sync(lines.flush)
            return
        begin, status = time.perf_counter(), 500
        name = Headers(scope=scope).get(HEADER, "")
        if not _SANE.fullmatch(name):
            name = f"{numbers.getrandbits(64):016x}"
        # The router adds the route to this dictionary.
        scope["state"] = dict(scope.get("state") or {}) | {"request_id": name}

        async def write(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        try:
            await app(scope, receive, write)
        finally:
            seconds = time.perf_counter() - begin
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.requests.add(route, method, str(status))
            metrics.seconds.observe(seconds, route)
            if lines is not None:
                lines.write(_line(scope, name, status, seconds))

    return traced


class _Log:
    """Writes lines in its own thread.

    Writing to a stream that nobody reads blocks, which must not happen in the
    event loop.
    """

    def __init__(self, stream: IO[str] | None):
        self._stream = stream
        self._queue: queue.Queue[str | threading.Event] = queue.Queue(_WAITING)
        threading.Thread(target=self._run, daemon=True).start()

    def write(self, line: str) -> None:
        """Queues a line."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(line)

    def flush(self) -> None:
        """Waits until all lines are written, for a limited time."""
        done = threading.Event()
        with contextlib.suppress(queue.Full):
            self._queue.put(done, timeout=_FLUSH)
            done.wait(_FLUSH)

    def _run(self) -> None:
        while True:
            one = self._queue.get()
            if isinstance(one, threading.Event):
                one.set()
                continue
            # The stream may be closed.
            with contextlib.suppress(OSError, ValueError):
                print(one, file=self._stream or sys.stderr, flush=True)


def _line(scope: Scope, name: str, status: int, seconds: float) -> str:
    now = datetime.datetime.now(datetime.UTC)
    row: dict[str, Any] = {
        "time": now.isoformat(timespec="milliseconds"),
        "request_id": name,
        "client": (scope.get("client") or [""])[0],
        "method": scope["method"],
        "path": scope["path"][:500],
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
    }
    return json.dumps(row)
