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

import numpy as np

# What NumPy raises besides `ValueError`, depending on the byte that is wrong.
_RAISED = (
    EOFError,
    KeyError,
    MemoryError,
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


def read(path: str | os.PathLike, *, mapped: bool = False) -> np.ndarray:
    """Returns the array of a `.npy` file.

    Args:
      path: of the file.
      mapped: whether to map the file into memory in place of reading it.

    Raises:
      OSError: if the file cannot be read.
      DamagedError: if it is no such file or is damaged.
    """
    with reading(path) as file:
        if mapped:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it is an archive of arrays, not an array")
        if not mapped and file.read(1):
            raise ValueError("the array is shorter than its file")
    return array


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
