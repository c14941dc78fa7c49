"""Images referenced by an address, such as https:// or s3://.

Such an image is fetched once, by `data.prepare`, into a file beside the table.
Its name consists of this file and the address, as in
`fetched/0f3a...#from=https://shop.example/a.jpg`. Other commands fetch nothing.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "fetched"  # in the folder of the table
# Prefixes of addresses; tests add their own server.
SCHEMES = ("https://", "gs://", "s3://")
FAILED = ".failed"  # suffix of a file that records why an image is missing
_FROM = "#from="


def localize(names: pd.Series) -> pd.Series:
    """Returns image names, each address prefixed with its file.

    Args:
      names: N cells of a table; those that are not addresses are returned
        unchanged.
    """
    which = names.str.startswith(SCHEMES).to_numpy(bool)
    if not which.any():
        return names
    cells = names.to_numpy(object, copy=True)
    cells[which] = [f"{file(one)}{_FROM}{one}" for one in cells[which]]
    return names.mask(which, cells)


def file(address: str) -> str:
    """Returns the file of an address, relative to the folder of the table."""
    digest = hashlib.sha256(address.encode()).hexdigest()[:32]
    return os.path.join(FOLDER, digest[:2], digest)


def split(name: str) -> tuple[str, str]:
    """Returns the path in a name, and the address; "" if there is none."""
    path, _, address = name.partition(_FROM)
    # Path libraries may have collapsed the slashes in the address.
    scheme, separator, rest = address.partition(":/")
    if not separator:
        return name, ""
    return path, f"{scheme}://{rest.lstrip('/')}"


def failure(path: str) -> str:
    """Returns why the file of an address is missing."""
    try:
        with open(path + FAILED, encoding="utf-8") as opened:
            return f"it could not be fetched: {opened.read().strip()}"
    except (OSError, ValueError):
        return (
            "it has not been fetched; run python -m mixer_jax.data.prepare "
            "with its table first"
        )
