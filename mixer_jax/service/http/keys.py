"""API keys: who may read and who may write.

A key is read from a file or an environment variable, never from the command
line, which other users of the machine can see.
"""

import hmac
import os
from collections.abc import Sequence
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

from mixer_jax.runtime.errors import UserError

_VARIABLE = "env:"
_MIN_LENGTH = 16  # characters
_HOW = "send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"


def load(source: str, option: str) -> tuple[bytes, ...]:
    """Returns the keys in a file or an environment variable, one per line.

    Several keys allow replacing one without an interruption.

    Args:
      source: the path of a file, or env:NAME for a variable.
      option: the option that names it, for messages.

    Raises:
      UserError: if there is no key, or one is too short.
    """
    if source.startswith(_VARIABLE):
        name = source.removeprefix(_VARIABLE)
        text, where = os.environ.get(name, ""), f"the variable {name}"
    else:
        where = f"the file {source}"
        try:
            with open(source, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise UserError(
                f"{option}: {where} cannot be read: {reason}. Name a file with "
                "the key, or a variable as in env:NAME; the key itself must "
                "not be on the command line."
            ) from error
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
        raise UserError(f"{option}: {where} has no key.")
    if any(len(key) < _MIN_LENGTH or not key.isascii() for key in keys):
        raise UserError(
            f"{option}: a key in {where} is too short or not ASCII; generate "
            "one of 16 or more characters, e.g. with `openssl rand -hex 32`."
        )
    return tuple(key.encode() for key in keys)


class Keys(NamedTuple):
    """The keys of a service.

    Attributes:
      read: keys for reading; if empty, anyone may read.
      write: keys for writing, which also allow reading; if empty, writing is
        off.
    """

    read: Sequence[bytes] = ()
    write: Sequence[bytes] = ()

    def require_read(self, request: Request) -> None:
        """Raises an `HTTPException` unless the client may read."""
        if self.read and not _matches(request, (*self.read, *self.write)):
            raise _missing(request, "Reading")

    def require_write(self, request: Request) -> None:
        """Raises an `HTTPException` unless the client may write."""
        if not self.write:
            raise HTTPException(
                403,
                "Writing is off; start the server with --write-key=FILE to "
                "allow it.",
            )
        if not _matches(request, self.write):
            raise _missing(request, "Writing")


def _missing(request: Request, what: str) -> HTTPException:
    if not _given(request):
        message = f"{what} needs an API key; {_HOW}."
    else:
        message = f"{what} is not allowed with this API key."
    return HTTPException(401, message, {"WWW-Authenticate": "Bearer"})


def _given(request: Request) -> bytes:
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip().encode()
    return request.headers.get("x-api-key", "").strip().encode()


def _matches(request: Request, keys: Sequence[bytes]) -> bool:
    """Compares with all keys in constant time."""
    given, found = _given(request), False
    for key in keys:
        found |= hmac.compare_digest(given, key)
    return found
