"""Names of images that are stored as bytes in a column of a Parquet file.

A name consists of the file, the row (from 1) and a digest of the bytes, for
example `shop/part-0.parquet#17@q7-2V0Zr2zNCc3Qm8LkYxw`. The file is relative to
the folder of the table, like the path of an image file. The bytes are read when
they are needed, so a table of such references takes little memory.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

_DIGEST = 22  # characters: 16 bytes in base64
_REFERENCE = rf"#([1-9][0-9]*)@([A-Za-z0-9_-]{{{_DIGEST}}})$"
_PARSED = re.compile(rf"(?s)(.+){_REFERENCE}")


class Reference(NamedTuple):
    """An image in a Parquet file.

    Attributes:
      file: the path of the file.
      row: the row in the file, from 0.
      digest: of the image's bytes, see `digest`.
    """

    file: str
    row: int
    digest: str


def parse(name: str | os.PathLike) -> Reference | None:
    """Returns the reference that a name consists of; None for a path."""
    name = os.fspath(name)
    found = _PARSED.fullmatch(name) if "#" in name else None
    if found is None:
        return None
    file, row, code = found.groups()
    return Reference(file, int(row) - 1, code)


def file_of(name: str | os.PathLike) -> str:
    """Returns the file that holds an image; `name` itself if it is a path."""
    reference = parse(name)
    return reference.file if reference else os.fspath(name)


def label(name: str | os.PathLike) -> str:
    """Returns how messages name an image: its path, or its file and row."""
    reference = parse(name)
    if reference is None:
        return os.fspath(name)
    return f"{reference.file}, row {reference.row + 1}"


def are_references(names: pd.Series) -> np.ndarray:
    """Returns which of N names are references, bool `[N]`."""
    found = names.str.contains("#", regex=False).to_numpy(bool, copy=True)
    if found.any():
        pattern = f".{_REFERENCE}".replace("(", "(?:")
        found[found] = names[found].str.contains(pattern)
    return found


def contents(names: pd.Series) -> pd.Series:
    """Returns names that depend on images' content, not on their file and row.

    Args:
      names: N names; paths are returned unchanged.
    """
    which = are_references(names)
    if not which.any():
        return names
    return names.mask(which, "#@" + names.str.slice(-_DIGEST))


def digest(content: bytes | memoryview) -> bytes:
    """Returns the digest of an image's bytes: 16 bytes of SHA-256."""
    return hashlib.sha256(content).digest()[:16]


def code(content: bytes) -> str:
    """Returns the digest of an image's bytes as it is in a reference."""
    return base64.urlsafe_b64encode(digest(content))[:_DIGEST].decode()


def encode(digests: Sequence[bytes]) -> pa.Array:
    """Returns digests in URL-safe base64 without padding, as Arrow strings."""
    # Zeros at the end of 16 bytes leave the first 22 of 24 characters.
    padded = b"".join(one + b"\0\0" for one in digests)
    codes = np.frombuffer(base64.urlsafe_b64encode(padded), np.uint8)
    codes = np.ascontiguousarray(codes.reshape(-1, 24)[:, :_DIGEST])
    kind = pa.binary(_DIGEST)
    return pa.Array.from_buffers(
        kind, len(digests), [None, pa.py_buffer(codes)]
    ).cast(pa.string())
