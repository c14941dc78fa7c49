"""Vectors as rows of NumPy arrays."""

import numpy as np


def normalize(rows: np.ndarray, shortest: float = 1e-12) -> np.ndarray:
    """Returns rows scaled to unit length, as float32.

    Args:
      rows: `[N, D]`, any real dtype.
      shortest: shorter rows are divided by this length instead of their own;
        zero rows thus stay zero.
    """
    rows = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, shortest)
