"""Segments: fixed-size parts of a set of rows that grows and shrinks.

A segment is allocated once. Rows are added and removed in place, by programs
that depend only on sizes, so other rows are not copied and nothing is
recompiled.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixer_jax.runtime.mesh import rows
from mixer_jax.search import short_factors
from mixer_jax.search.held import SPLIT, WHOLE, Held
from mixer_jax.search.queries import Asked

_PIECE = 8  # rows are added in pieces whose sizes are powers of this


class Segment(Held):
    """Up to N rows, in the order of the devices that hold them.

    Attributes:
      short: int8 `[N, C]`, the rows, mixed and rounded to multiples of their
        `scale`; see `short_factors`.
      scale: f32 `[N]`.
      slack: f32 `[N]`, bound on the rounding error of a row, as a distance.
      label: int32 `[N]`, see `Asked`; -1 for none.
      present: bool `[N]`, whether a row has been added and not been removed.
    """

    short: jax.Array
    scale: jax.Array
    slack: jax.Array
    label: jax.Array
    present: jax.Array

    def specs(self) -> "Segment":
        """Returns the partition spec of each array."""
        return jax.tree.map(lambda _: SPLIT, self)

    def real(
        self, local: jax.Array, number: jax.Array, asked: Asked
    ) -> jax.Array:
        """Returns which rows are present and not hidden from the query."""
        real = self.present.at[local].get(mode="clip")
        if asked.label is not None:
            label = self.label.at[local].get(mode="clip")
            real &= (label != asked.label) | (label < 0)
        if asked.skip is not None:
            real &= number != asked.skip
        return real


def allocate(capacity: int, dim: int, block: int, mesh: Mesh) -> Segment:
    """Returns a segment without rows.

    Args:
      capacity: number of rows, a multiple of the mesh's size times `block`.
      dim: C, the number of dimensions.
      block: rows per block, a power of two.
      mesh: the mesh to shard the rows over.
    """

    def zeros() -> Segment:
        return Segment(
            whole=jnp.zeros((capacity, dim), jnp.float32),
            short=jnp.zeros((capacity, dim), jnp.int8),
            scale=jnp.zeros(capacity, jnp.float32),
            slack=jnp.zeros(capacity, jnp.float32),
            label=jnp.full(capacity, -1, jnp.int32),
            present=jnp.zeros(capacity, jnp.bool),
            block=block,
            mesh=mesh,
        )

    return jax.jit(zeros, out_shardings=rows(mesh))()


def add(
    segment: Segment, start: int, vectors: np.ndarray, labels: np.ndarray
) -> Segment:
    """Adds rows; the old segment's arrays are reused.

    Args:
      segment: the segment to change.
      start: number of its rows so far.
      vectors: f32 `[n, C]`, unit rows.
      labels: int32 `[n]`.
    """
    done = 0
    while done < len(vectors):
        size = _piece(start + done, len(vectors) - done, segment.block)
        part = slice(done, done + size)
        segment = _write(
            segment, np.int32(start + done), vectors[part], labels[part]
        )
        done += size
    return segment


def _piece(start: int, count: int, block: int) -> int:
    """Returns the largest size of an aligned piece of the next rows."""
    size = 1
    while (
        (size * _PIECE) <= min(count, block)
        and not start % (size * _PIECE)
        and not block % (size * _PIECE)
    ):
        size *= _PIECE
    return size


@partial(jax.jit, donate_argnames="segment")
def _write(segment, start, row_PxC, label_P):
    def local(segment, start, row_PxC, label_P):
        mine, slot = segment.holder(start // segment.block)
        at = slot * segment.block + start % segment.block
        short_PxC, scale_P, slack_P = short_factors.to_integers(
            short_factors.mix(row_PxC)
        )

        def put(old, new):
            kept = jax.lax.dynamic_slice_in_dim(old, at, len(new))
            new = jnp.where(mine, new, kept)
            return jax.lax.dynamic_update_slice_in_dim(old, new, at, 0)

        return segment.replace(
            whole=put(segment.whole, row_PxC),
            short=put(segment.short, short_PxC),
            scale=put(segment.scale, scale_P),
            slack=put(segment.slack, slack_P),
            label=put(segment.label, label_P),
            present=put(segment.present, jnp.ones(len(label_P), jnp.bool)),
        )

    return jax.shard_map(
        local,
        mesh=segment.mesh,
        in_specs=(segment.specs(), WHOLE, WHOLE, WHOLE),
        out_specs=segment.specs(),
    )(segment, start, row_PxC, label_P)


def remove(segment: Segment, numbers: np.ndarray) -> Segment:
    """Removes the rows with these numbers; reuses the old segment's arrays.

    Args:
      segment: the segment to change.
      numbers: int `[n]`, which may repeat.
    """
    done = 0
    while done < len(numbers):
        size = _piece(0, len(numbers) - done, _PIECE**4)
        part = numbers[done : done + size].astype(np.int32)
        segment = segment.replace(present=_clear(segment, part))
        done += size
    return segment


@partial(jax.jit, donate_argnames="segment")
def _clear(segment, number_P):
    def local(segment, number_P):
        mine_P, slot_P = segment.holder(number_P // segment.block)
        at_P = slot_P * segment.block + number_P % segment.block
        at_P = jnp.where(mine_P, at_P, len(segment.present))
        return segment.present.at[at_P].set(False, mode="drop")

    return jax.shard_map(
        local,
        mesh=segment.mesh,
        in_specs=(segment.specs(), WHOLE),
        out_specs=SPLIT,
    )(segment, number_P)


def split(segment: Segment, values: np.ndarray) -> jax.Array:
    """Shards values of a segment's rows like the rows themselves.

    Args:
      segment: a segment of N rows.
      values: `[n]`, n <= N; zero for the other rows.
    """
    total = len(segment.present)
    values = np.pad(values, (0, total - len(values)))
    dealt = values.reshape(-1, segment.mesh.size, segment.block)
    dealt = np.ascontiguousarray(dealt.swapaxes(0, 1)).reshape(-1)
    return jax.make_array_from_callback(
        dealt.shape, rows(segment.mesh), lambda index: dealt[index]
    )
