"""NumPy arrays: files that may be damaged, and rows of unit length."""

import contextlib
import errno
import os
import pathlib
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from mixer_jax.runtime import files

# Errors that `np.load` raises for damaged files, depending on the damage.
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
      path: the file.
      mapped: whether to memory-map the file instead of reading it.

    Raises:
      OSError: if the file cannot be read.
      DamagedError: if it is not a `.npy` file or is damaged.
    """
    with reading(path) as file:
        if mapped:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = np.load(file, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it is an archive of arrays, not a single array")
        if not mapped and file.read(1):
            raise ValueError("the file continues after the array")
    return array


def write(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes a `.npy` file atomically; see `files.write`."""

    def save(draft: pathlib.Path) -> None:
        with open(draft, "wb") as file:
            np.save(file, array)

    files.write(path, save)


class DamagedError(ValueError):
    """Error for a file that is damaged or was not written by NumPy."""


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for `np.load`, which would leave a damaged file open.

    Raises:
      DamagedError: if the block fails because the file is damaged.
      OSError: if the file cannot be read.
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            # NumPy mistakes some damaged headers for older versions and warns.
            warnings.simplefilter("ignore", UserWarning)
            yield file
    except (*_RAISED, OSError) as error:
        # Reading a damaged archive may seek to a negative offset: EINVAL.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise DamagedError(f"{os.fspath(path)} is damaged") from error


def normalize(rows: np.ndarray, min_length: float = 1e-12) -> np.ndarray:
    """Returns rows scaled to unit length, as float32.

    Args:
      rows: `[N, D]`, any real dtype.
      min_length: shorter rows are divided by this length instead of their
        own; zero rows thus stay zero.
    """
    rows = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, min_length)
