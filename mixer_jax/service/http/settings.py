"""The options of the service."""

import argparse
import re
from typing import NamedTuple

from mixer_jax.runtime.errors import UserError
from mixer_jax.service.http import keys
from mixer_jax.service.http.keys import Keys
from mixer_jax.service.http.recording import Recorder

MAX_MEGAPIXELS = 50.0
_ORIGIN = re.compile(r"\*|https?://[A-Za-z0-9.\[\]:-]+")


class Settings(NamedTuple):
    """Options of the service.

    Attributes:
      max_megabytes: the maximum size of a request.
      max_pixels: the maximum number of pixels of a decoded picture.
      keys: who may read and write.
      origins: the web origins whose pages may send requests.
      log_requests: whether to log requests on standard error.
      recorder: records searches and clicks; None to record nothing.
    """

    max_megabytes: float = 20
    max_pixels: int = int(MAX_MEGAPIXELS * 1e6)
    keys: Keys = Keys()
    origins: tuple[str, ...] = ()
    log_requests: bool = False
    recorder: Recorder | None = None


DEFAULTS = Settings()


def read(given: argparse.Namespace) -> Settings:
    """Returns the settings given on a command line.

    Raises:
      UserError: if one of them is invalid.
    """
    if not 0 < given.max_megabytes <= 1000:
        raise UserError(
            f"--max-megabytes is {given.max_megabytes:g}; it must be more than "
            "0 and at most 1000."
        )
    for origin in given.cors_origin:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"--cors-origin is {origin!r}; it must be a scheme and a host, "
                "as in https://shop.example, or * for all."
            )
    found = {
        role: keys.load(source, f"--{role}-key") if source else ()
        for role, source in (
            ("read", given.read_key),
            ("write", given.write_key),
        )
    }
    recorder = (
        Recorder(given.events, given.events_days) if given.events else None
    )
    return Settings(
        given.max_megabytes,
        int(given.max_megapixels * 1e6),
        Keys(**found),
        tuple(given.cors_origin),
        given.log_requests,
        recorder,
    )
