"""Fetches the images that a sample table names by https:// addresses.

Each address is fetched once, into a file beside the table. An interrupted
download is repeated; finished ones are kept.
"""

import collections
import contextlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mixer_jax.runtime import files, progress, terminal
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import addresses, references

RATE = 10.0  # requests per second to one host
HELP = (
    "maximum number of requests per second to one host, for images at https:// "
    "addresses (default: %(default)s)"
)
MAX_BYTES = 100 << 20  # of one image
_TIMEOUT = 30.0  # seconds without any byte
_DEADLINE = 600.0  # seconds for one image
_TRIES = 4
_PAUSE = 1.0  # seconds before the second try; doubled before each later one
_LONGEST_PAUSE = 60.0  # seconds
_THREADS = 16
_CHUNK = 1 << 16
_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # status codes worth another try


class _FailedError(Exception):
    """Raised if an address cannot be fetched; the message is the reason."""


def fetch(images: pd.Series, root: Path, rate: float) -> None:
    """Fetches images whose files are missing; shows the progress.

    An image that cannot be fetched stays missing, and is tried again by the
    next call.

    Args:
      images: names of images, of which some may have an address.
      root: the folder of the table.
      rate: the maximum number of requests per second to one host.

    Raises:
      UserError: if a file cannot be written.
    """
    wanted = list(dict.fromkeys(_missing(images, root)))
    if not wanted:
        return
    fetcher = _Fetcher(root, rate)
    failed = 0
    try:
        with (
            threads_lib.pool(_THREADS) as pool,
            progress.show("Fetching images", len(wanted)) as count,
        ):
            try:
                for reason in pool.map(fetcher, wanted):
                    failed += bool(reason)
                    count(1)
            finally:
                fetcher.stopped.set()  # The pool waits for its tasks.
    except OSError as error:
        raise UserError(
            f"Images cannot be fetched into {root / addresses.FOLDER}: "
            f"{files.reason(error)}. Once the cause is removed, the same "
            "command resumes."
        ) from error
    done = f"{len(wanted) - failed:,} images"
    message = f"Fetched {done} into {root / addresses.FOLDER}"
    if failed:
        message += f"; {failed:,} could not be fetched"
    terminal.say(f"{message}.", console=terminal.Console(stderr=True))


def _missing(images: pd.Series, root: Path) -> Iterator[str]:
    """Yields the addresses of images whose files do not exist."""
    for name in images[images.str.startswith(addresses.FOLDER)].unique():
        path, address = addresses.split(references.split(name)[0])
        # An empty file is one that a power failure has left behind.
        if address and not files.is_filled(os.path.join(root, path)):
            yield address


class _Fetcher:
    """Fetches addresses in any thread, and limits the rate per host."""

    def __init__(self, root: Path, rate: float):
        self._root, self._interval = root, 1 / rate
        self._lock = threading.Lock()
        self._next: dict[str, float] = collections.defaultdict(float)
        self._opener = urllib.request.build_opener(_Redirects)
        self.stopped = threading.Event()

    def __call__(self, address: str) -> str:
        """Fetches an address; returns why it failed, or "".

        Raises:
          OSError: if the file cannot be written.
        """
        path = self._root / addresses.file(address)
        failed = Path(f"{path}{addresses.FAILED}")
        try:
            content = self._fetch(address)
        except _FailedError as error:
            reason = str(error)
            if not self.stopped.is_set():
                _write(failed, reason.encode())
            return reason
        _write(path, content)
        failed.unlink(missing_ok=True)
        return ""

    def _fetch(self, address: str) -> bytes:
        for number in range(_TRIES):
            self._wait_for_turn(address)
            pause = min(_PAUSE * 2**number, _LONGEST_PAUSE)
            try:
                return self._request(address)
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"the server answered {error.code} {error.reason}"
                if error.code not in _AGAIN:
                    break
                pause = max(pause, _retry_after(error.headers))
            except (OSError, http.client.HTTPException, ValueError) as error:
                cause = getattr(error, "reason", None) or error
                reason = str(cause) or type(cause).__name__
            if number + 1 < _TRIES and self.stopped.wait(pause):
                raise _FailedError("the command was stopped")
        raise _FailedError(" ".join(reason.split())[:200])

    def _wait_for_turn(self, address: str) -> None:
        host = urllib.parse.urlsplit(address).netloc
        with self._lock:
            now = time.monotonic()
            turn = max(self._next[host], now)
            self._next[host] = turn + self._interval
        if self.stopped.wait(turn - now):
            raise _FailedError("the command was stopped")

    def _request(self, address: str) -> bytes:
        _check_scheme(address)
        request = urllib.request.Request(
            _quoted(address), headers={"User-Agent": "mixer_jax"}
        )
        parts, size, deadline = [], 0, time.monotonic() + _DEADLINE
        with self._opener.open(request, timeout=_TIMEOUT) as response:
            length = response.length
            while chunk := response.read1(_CHUNK):
                size += len(chunk)
                if max(size, length or 0) > MAX_BYTES:
                    raise _FailedError(f"it has more than {MAX_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise _FailedError(f"it takes more than {_DEADLINE:.0f} s")
                if self.stopped.is_set():
                    raise _FailedError("the command was stopped")
                parts.append(chunk)
        if length is not None and size < length:
            raise http.client.IncompleteRead(b"".join(parts), length - size)
        if not size:
            raise _FailedError("the answer is empty")
        return b"".join(parts)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https:// addresses only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Returns the request to follow; see the base class."""
        # Redirects are rare, and not counted in the rate.
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(address: str) -> None:
    if not address.startswith(addresses.SCHEMES):
        raise _FailedError(f"{address[:100]} is not an https:// address")


def _quoted(address: str) -> str:
    """Returns an address whose special characters are percent-encoded."""
    return urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")


def _retry_after(headers: http.client.HTTPMessage) -> float:
    """Returns the pause in seconds that a server asks for; 0 for none."""
    with contextlib.suppress(TypeError, ValueError):
        seconds = float(headers.get("Retry-After"))
        return min(max(seconds, 0.0), _LONGEST_PAUSE)
    return 0.0


def _write(path: Path, content: bytes) -> None:
    files.write(
        path, lambda draft: draft.write_bytes(content), one_of_many=True
    )
