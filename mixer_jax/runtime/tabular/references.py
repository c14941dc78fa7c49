"""Names of images: paths, references to rows of Parquet files, and boxes.

The name of an image stored as bytes in a Parquet file consists of the
file, the row (from 1) and a digest of the bytes, for example
`shop/part-0.parquet#17@q7-2V0Zr2zNCc3Qm8LkYxw`. The file is relative to the
folder of the table, like the path of an image file. The bytes are read
when needed, so a table of such references takes little memory.

A name may end in a crop box, as in `photo.jpg#box=10,20,300,400`; see `boxes`.
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

from mixer_jax.runtime.tabular import addresses

if TYPE_CHECKING:
    import pandas as pd

_DIGEST = 22  # characters: 16 bytes in base64
_REFERENCE = rf"#([1-9][0-9]{{0,17}})@([A-Za-z0-9_-]{{{_DIGEST}}})"
_BOX = r"#box=[0-9]{1,9}(?:,[0-9]{1,9}){3}"
_PARSED = re.compile(rf"(?s)(.+){_REFERENCE}")
_BOXED = re.compile(rf"(?s)(.+)({_BOX})")


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


def split(name: str | os.PathLike) -> tuple[str, str]:
    """Returns a name without its box, and the box, such as "10,20,300,400"."""
    name = os.fspath(name)
    found = _BOXED.fullmatch(name) if "#box=" in name else None
    if found is None:
        return name, ""
    return found[1], found[2].removeprefix("#box=")


def box_suffix(x1: int, y1: int, x2: int, y2: int) -> str:
    """Returns the end of the name of an image with a crop box."""
    return f"#box={x1},{y1},{x2},{y2}"


def parse(name: str | os.PathLike) -> Reference | None:
    """Returns the reference in a name; None if the name is a path."""
    name, _ = split(name)
    found = _PARSED.fullmatch(name) if "#" in name else None
    if found is None:
        return None
    file, row, code = found.groups()
    return Reference(file, int(row) - 1, code)


def file_of(name: str | os.PathLike) -> str:
    """Returns the file that holds an image."""
    reference = parse(name)
    return reference.file if reference else addresses.split(split(name)[0])[0]


def files(names: Sequence[str], root: str | os.PathLike) -> list[str]:
    """Returns the paths of the files that hold images.

    Args:
      names: the names of the images.
      root: the folder that they are relative to.
    """
    # Most names are file names; parsing millions of them would take seconds.
    found = [name if "#" not in name else file_of(name) for name in names]
    start = os.path.join(root, "")
    return [start + name if name[:1] != "/" else name for name in found]


def label(name: str | os.PathLike) -> str:
    """Returns a name for messages: the image's file or address, row and box."""
    reference = parse(name)
    file, box = split(name)
    if reference is not None:
        file = f"{reference.file}, row {reference.row + 1}"
    file = addresses.split(file)[1] or file
    return f"{file}, box ({box.replace(',', ', ')})" if box else file


def are_references(names: pd.Series) -> np.ndarray:
    """Returns which of N names are references, bool `[N]`."""
    found = names.str.contains("#", regex=False).to_numpy(bool, copy=True)
    if found.any():
        # pandas warns about capturing groups.
        pattern = rf".{_REFERENCE}(?:{_BOX})?$".replace("([", "(?:[")
        found[found] = names[found].str.contains(pattern)
    return found


def have_box(names: pd.Series) -> pd.Series:
    """Returns which of N names end in a crop box, bool `[N]`."""
    return names.str.contains(rf".{_BOX}$")


def contents(names: pd.Series) -> pd.Series:
    """Returns names that depend on images' content, not on their file and row.

    Args:
      names: N names; paths are returned unchanged.
    """
    which = are_references(names)
    if not which.any():
        return names
    pattern = rf"^.*{_REFERENCE}({_BOX})?$"
    return names.mask(which, names.str.replace(pattern, r"#@\2\3", regex=True))


def digest(content: bytes | memoryview) -> bytes:
    """Returns the digest of an image's bytes: 16 bytes of SHA-256."""
    return hashlib.sha256(content).digest()[:16]


def code(content: bytes) -> str:
    """Returns the digest of an image's bytes, encoded as in a reference."""
    return base64.urlsafe_b64encode(digest(content))[:_DIGEST].decode()


def decode(code: str) -> bytes:
    """Returns the digest that a reference holds."""
    return base64.urlsafe_b64decode(f"{code}==")


def encode(digests: Sequence[bytes]) -> pa.Array:
    """Returns digests in URL-safe base64 without padding, as Arrow strings."""
    # Two padding bytes do not change the first 22 of the 24 characters.
    padded = b"".join(one + b"\0\0" for one in digests)
    codes = np.frombuffer(base64.urlsafe_b64encode(padded), np.uint8)
    codes = np.ascontiguousarray(codes.reshape(-1, 24)[:, :_DIGEST])
    kind = pa.binary(_DIGEST)
    return pa.Array.from_buffers(
        kind, len(digests), [None, pa.py_buffer(codes)]
    ).cast(pa.string())
