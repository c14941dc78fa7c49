"""Reads `.npy` files, whatever is in them."""

import os
import tokenize

import numpy as np


def read(path: str | os.PathLike, *, mapped: bool = False) -> np.ndarray:
    """Returns the array of a `.npy` file.

    Args:
      path: of the file.
      mapped: whether to map the file into memory in place of reading it.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is no such file or is damaged.
    """
    mode = "r" if mapped else None
    try:
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (EOFError, MemoryError, OverflowError, TypeError) as error:
        raise ValueError(str(error)) from error
    except (SyntaxError, tokenize.TokenError, RecursionError) as error:
        raise ValueError("its header is damaged") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("it is an archive of arrays, not an array")
    return array
