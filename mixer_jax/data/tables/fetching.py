"""Fetches the images that a sample table refers to by address.

Each address is fetched once, into a file beside the table. An interrupted
download is repeated; finished ones are kept. If the table was copied from a
bucket, its other images are fetched as well, and keep their paths.
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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mixer_jax.data.tables import buckets
from mixer_jax.runtime import files, progress, terminal
from mixer_jax.runtime import threads as threads_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import addresses, references

RATE = 10.0  # requests per second to one host
HELP = (
    "maximum number of requests per second to one host, for images at https:// "
    "addresses (default: %(default)s)"
)
MAX_BYTES = 100 << 20  # per image
_TIMEOUT = 30.0  # seconds without receiving a byte
_DEADLINE = 600.0  # seconds per image
_TRIES = 4
_PAUSE = 1.0  # seconds before the first retry; doubled for each later one
_LONGEST_PAUSE = 60.0  # seconds
_THREADS = 16
_CHUNK = 1 << 16
_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # status codes to retry


class _FailedError(Exception):
    """Raised if an address cannot be fetched; the message is the reason."""


class _PassingError(Exception):
    """Raised if a later retry may succeed; the message is the reason."""


class _Wanted(NamedTuple):
    """An image to fetch.

    Attributes:
      address: the address to fetch it from.
      path: the file to write.
      note: the file that records why a fetch failed; None to write none.
    """

    address: str
    path: Path
    note: Path | None


def fetch(images: pd.Series, root: Path, rate: float, origin: str = "") -> None:
    """Fetches images whose files are missing; shows the progress.

    An image that cannot be fetched stays missing until the next call retries
    it.

    Args:
      images: names of images; some may contain an address.
      root: the folder of the table.
      rate: the maximum number of https:// requests per second to one host.
      origin: the address of the folder in a bucket that relative paths refer
        to; "" if their files are not fetched.

    Raises:
      UserError: if a file cannot be written, or the package for a bucket is
        missing.
    """
    wanted = list(dict.fromkeys(_missing(images, root, origin)))
    if not wanted:
        return
    for scheme in buckets.SCHEMES:
        if first := [a for a, *_ in wanted if a.startswith(scheme)][:1]:
            buckets.file_system(*first)
    fetcher = _Fetcher(rate)
    failed, example = 0, ""
    try:
        with (
            threads_lib.pool(_THREADS) as pool,
            progress.show("Fetching images", len(wanted)) as count,
        ):
            try:
                reasons = pool.map(fetcher, wanted)
                for one, reason in zip(wanted, reasons, strict=True):
                    failed += bool(reason)
                    if reason and not example:
                        example = f"{one.address}: {reason}"
                    count(1)
            finally:
                fetcher.stopped.set()  # The pool waits for its tasks.
    except OSError as error:
        raise UserError(
            f"Images cannot be fetched into {root}: "
            f"{files.reason(error)}. Fix this, then run the same command "
            "again to continue."
        ) from error
    done = f"{len(wanted) - failed:,} images"
    message = f"Fetched {done} into {root}"
    if failed:
        message += f"; {failed:,} could not be fetched, such as {example}"
    terminal.say(f"{message}.", console=terminal.Console(stderr=True))


def _missing(images: pd.Series, root: Path, origin: str) -> Iterator[_Wanted]:
    """Yields the images whose files do not exist."""
    for name in images.unique() if origin else _addressed(images):
        file = references.file_of(name)
        path = Path(os.path.join(root, file))
        _, address = addresses.split(references.split(name)[0])
        if address:
            note = Path(f"{path}{addresses.FAILED}")
        elif _is_inside(file):
            address, note = f"{origin}/{file}", None
        # A power failure may leave an empty file behind.
        if address and not files.is_filled(path):
            yield _Wanted(address, path, note)


def _addressed(images: pd.Series) -> Iterable[str]:
    return images[images.str.startswith(addresses.FOLDER)].unique()


def _is_inside(file: str) -> bool:
    """Returns whether a path of a table is relative, and inside its folder."""
    parts = file.split("/")
    return bool(file) and not os.path.isabs(file) and ".." not in parts


class _Fetcher:
    """Fetches addresses in any thread, and limits the rate per host."""

    def __init__(self, rate: float):
        self._interval = 1 / rate
        self._lock = threading.Lock()
        self._next: dict[str, float] = collections.defaultdict(float)
        self._opener = urllib.request.build_opener(_Redirects)
        self.stopped = threading.Event()

    def __call__(self, wanted: _Wanted) -> str:
        """Fetches an image; returns why it failed, or "".

        Raises:
          OSError: if the file cannot be written.
        """
        try:
            content = self._fetch(wanted.address)
        except _FailedError as error:
            reason = str(error)
            if wanted.note and not self.stopped.is_set():
                _write(wanted.note, reason.encode())
            return reason
        _write(wanted.path, content)
        if wanted.note:
            wanted.note.unlink(missing_ok=True)
        return ""

    def _fetch(self, address: str) -> bytes:
        is_object = address.startswith(buckets.SCHEMES)
        for number in range(_TRIES):
            pause = min(_PAUSE * 2**number, _LONGEST_PAUSE)
            try:
                if is_object:
                    return _read_object(address)
                self._wait_for_turn(address)
                return self._request(address)
            except _PassingError as error:
                reason = str(error)
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
                    raise _FailedError(f"it took more than {_DEADLINE:.0f} s")
                if self.stopped.is_set():
                    raise _FailedError("the command was stopped")
                parts.append(chunk)
        if length is not None and size < length:
            raise http.client.IncompleteRead(b"".join(parts), length - size)
        if not size:
            raise _FailedError("the response is empty")
        return b"".join(parts)


def _read_object(address: str) -> bytes:
    """Returns the bytes of an object in a bucket."""
    try:
        content = buckets.read(address, MAX_BYTES)
    except FileNotFoundError as error:
        raise _FailedError("there is no such object") from error
    except (PermissionError, ValueError) as error:
        raise _FailedError(_short(error)) from error
    except Exception as error:  # Libraries raise many types of errors.
        raise _PassingError(_short(error)) from error
    if not content:
        raise _FailedError("the object is empty")
    return content


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.split())[:200]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https:// addresses only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Returns the request to follow; see the base class."""
        # Redirects are rare, so they do not count toward the rate.
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(address: str) -> None:
    if not address.startswith(addresses.SCHEMES):
        raise _FailedError(f"{address[:100]} is not an https:// address")


def _quoted(address: str) -> str:
    """Returns an address whose special characters are percent-encoded."""
    return urllib.parse.quote(address, safe="%/:=&?~#+!$,;'@()*[]")


def _retry_after(headers: http.client.HTTPMessage) -> float:
    """Returns the seconds in a response's Retry-After header; 0 if none."""
    with contextlib.suppress(TypeError, ValueError):
        seconds = float(headers.get("Retry-After"))
        return min(max(seconds, 0.0), _LONGEST_PAUSE)
    return 0.0


def _write(path: Path, content: bytes) -> None:
    files.write(
        path, lambda draft: draft.write_bytes(content), one_of_many=True
    )
