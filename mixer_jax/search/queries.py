"""Queries: checked arguments, and blocks of a few fixed sizes."""

from collections.abc import Iterator
from typing import NamedTuple

import flax.struct
import jax
import numpy as np

# Queries per block. Smaller blocks are faster, but each size is compiled.
_SIZES = (1, 8, 64, 256)


class Asked(flax.struct.PyTreeNode):
    """A block of Q query rows, replicated on all devices.

    Attributes:
      row: f32 `[Q, C]`, unit rows.
      label: int32 `[Q]`; rows with the same label >= 0 are hidden from the
        query. None to hide no rows.
      skip: int32 `[Q]`, a row hidden from each query, -1 for none; or None.
    """

    row: jax.Array
    label: jax.Array | None = None
    skip: jax.Array | None = None


class Queries(NamedTuple):
    """Any number of queries; see `Asked`.

    Attributes:
      rows: f32 `[Q, C]`.
      labels: int32 `[Q]`, or None.
      exclude: int32 `[Q]`, or None.
      relevant: int32 `[Q, R]`, rows to look up; or None.
    """

    rows: np.ndarray
    labels: np.ndarray | None = None
    exclude: np.ndarray | None = None
    relevant: np.ndarray | None = None

    def blocks(
        self, chosen: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Asked, np.ndarray | None]]:
        """Yields blocks of the chosen queries.

        Yields:
          The numbers of the block's queries; the queries, padded to a fixed
          size; and their relevant rows, likewise.
        """
        while len(chosen):
            size = next((s for s in _SIZES if s >= len(chosen)), _SIZES[-1])
            these, chosen = chosen[:size], chosen[size:]
            *asked, relevant = (
                None if x is None else np.resize(x[these], (size, *x.shape[1:]))
                for x in self
            )
            yield these, Asked(*asked), relevant


def check_vectors(vectors: np.ndarray, dim: int, name: str) -> np.ndarray:
    """Returns `[N, dim]` vectors as f32.

    Raises:
      ValueError: if they have another shape, are not finite, or are too long
        for f32.
    """
    with np.errstate(over="ignore"):
        vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(
            f"The {name} have shape {vectors.shape}; they must have {dim} "
            "columns."
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.linalg.norm(vectors, axis=1))
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} of {len(vectors)} {name} are not finite; the "
            f"first is row {np.argmin(finite)}."
        )
    return vectors


def check_integers(
    values: np.ndarray | None, count: int, name: str
) -> np.ndarray | None:
    """Returns int32 `[count]` values, or None if there are none.

    Raises:
      ValueError: if they have another shape or are not integers.
    """
    if values is None:
        return None
    values = np.asarray(values)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` has shape {values.shape} and dtype {values.dtype}; it "
            f"must hold an integer for each of the {count} rows."
        )
    limits = np.iinfo(np.int32)
    if len(values) and not (
        limits.min <= values.min() and values.max() <= limits.max
    ):
        raise ValueError(
            f"`{name}` has values from {values.min()} to {values.max()}; they "
            f"must be from {limits.min} to {limits.max}."
        )
    return values.astype(np.int32)
