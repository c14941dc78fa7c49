"""Embeddings as bytes, and the loss of each encoding.

    f32   float32, 4 D bytes; lossless
    f16   float16, 2 D bytes
    int8  8-bit integers, scaled per embedding, D bytes

The loss of an embedding is the distance between the unit vector and its stored
value; it bounds the error of any cosine with a unit vector.
"""

import hashlib
from typing import NamedTuple

import numpy as np

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.errors import UserError

STORAGES = {"f32": "<f4", "f16": "<f2", "int8": "i1"}  # names and dtypes


class Loss(NamedTuple):
    """The loss of all embeddings ever stored.

    Attributes:
      count: the number of embeddings.
      total: the sum of their losses.
      worst: the largest loss.
    """

    count: int = 0
    total: float = 0.0
    worst: float = 0.0

    @property
    def mean(self) -> float:
        """The mean loss."""
        return self.total / max(self.count, 1)

    def __str__(self) -> str:
        """Returns a human-readable summary; "" if nothing was lost."""
        if not self.worst:
            return ""
        return (
            f"cosines off by at most {self.worst:.2g} ({self.mean:.2g} on "
            "average)"
        )

    def plus(self, other: "Loss") -> "Loss":
        """Returns the loss of both sets of embeddings together."""
        return Loss(
            self.count + other.count,
            self.total + other.total,
            max(self.worst, other.worst),
        )

    @classmethod
    def measure(
        cls, unit: np.ndarray, blobs: list[bytes], storage: str
    ) -> "Loss":
        """Returns the loss of storing unit rows `[n, D]` as `blobs`."""
        lost = unit - decode(b"".join(blobs), unit.shape[1], storage)
        lengths = np.linalg.norm(lost.astype(np.float64), axis=1)
        return cls(len(blobs), float(lengths.sum()), float(lengths.max()))


def encode(unit: np.ndarray, storage: str) -> list[bytes]:
    """Returns unit rows, f32 `[n, D]`, as n byte strings."""
    if storage == "int8":
        # The scale is not stored: unit rows are determined by their direction.
        largest = np.abs(unit).max(axis=1, keepdims=True, initial=1e-12)
        unit = np.rint(unit * (127 / largest))
    return [row.tobytes() for row in unit.astype(STORAGES[storage])]


def decode(content: bytes, dim: int, storage: str) -> np.ndarray:
    """Returns n concatenated embeddings as unit rows, f32 `[n, D]`."""
    rows = np.frombuffer(content, STORAGES[storage]).reshape(-1, dim)
    return rows if storage == "f32" else normalize(rows)


def size(dim: int, storage: str) -> int:
    """Returns the number of bytes of an embedding."""
    return dim * np.dtype(STORAGES[storage]).itemsize


def check_queries(queries: np.ndarray, dim: int) -> np.ndarray:
    """Returns queries scaled to unit length, f32 `[Q, dim]`.

    Raises:
      UserError: if they have another shape or are not finite.
    """
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise UserError(
            f"The query vectors have the shape {queries.shape}; this index "
            f"needs [Q, {dim}]."
        )
    if not np.isfinite(queries).all():
        raise UserError("A query vector is not finite.")
    return normalize(queries)


def content(*parts: str | bytes) -> bytes:
    """Returns a digest of the embedded content: a picture, a text or both."""
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else bytes(part)
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()[:16]
