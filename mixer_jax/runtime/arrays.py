"""Reads NumPy's files, which a disk may have damaged."""

import contextlib
import errno
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

# What NumPy raises besides `ValueError`, depending on the byte that is wrong.
_RAISED = (
    EOFError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class DamagedError(ValueError):
    """A file is not as NumPy has written it."""


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yields a file for `np.load`, which leaves a damaged one open.

    Raises:
      DamagedError: if the block finds it damaged; other `OSError`s pass.
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            # A damaged header looks like one of an old version.
            warnings.simplefilter("ignore", UserWarning)
            yield file
    except (*_RAISED, OSError) as error:
        # A damaged archive points to before its beginning.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise DamagedError(f"{os.fspath(path)} is damaged") from error
