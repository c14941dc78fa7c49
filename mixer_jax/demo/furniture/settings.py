"""Settings of a build of the furniture tables."""

from pathlib import Path
from typing import NamedTuple

from mixer_jax.runtime.errors import UserError

SMALLEST, LARGEST = 64, 256  # pixels
MOST_VIEWS = 100


class Settings(NamedTuple):
    """Options of the build.

    Attributes:
      size: side of the square pictures in pixels.
      views: number of queries per product.
      package: the Debian package, or a folder with its content; fetched by
        apt-get if None.
      limit: maximum number of products; None for all.
    """

    size: int = 128
    views: int = 5
    package: Path | None = None
    limit: int | None = None


def check(settings: Settings) -> None:
    """Raises a `UserError` if a setting is out of range."""
    if not SMALLEST <= settings.size <= LARGEST:
        raise UserError(
            f"The size is {settings.size} pixels; it must be from {SMALLEST} "
            f"to {LARGEST}."
        )
    if not 1 <= settings.views <= MOST_VIEWS:
        raise UserError(
            f"The number of views is {settings.views}; it must be from 1 to "
            f"{MOST_VIEWS}."
        )
    if settings.limit is not None and settings.limit < 1:
        raise UserError(
            f"The limit is {settings.limit} products; it must be 1 or more."
        )
