"""Screening: shortlists of the groups that may hold a row's neighbors.

All pairs of rows are multiplied, but with short factors (`short_factors.py`),
and each group of rows is represented by its largest product only, so neither
the products nor their sorting ever become large. Each row keeps a shortlist of
groups. A product serves both of its rows, so searching two sets in both
directions, or a set in itself, takes half as many products.

Rows are sharded over the mesh in blocks, assigned to devices round-robin, so
that any range of blocks is spread evenly over the devices.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixer_jax.runtime.mesh import AXIS, rows
from mixer_jax.search import short_factors
from mixer_jax.search.held import GROUP, SPLIT, WHOLE, Held
from mixer_jax.search.queries import Asked
from mixer_jax.search.shortlists import Shortlist

_TILE = 1024  # rows per side of a tile; its products fit in a cache
_BLOCK = 8192  # rows per block; each row is sorted once per block


class Placed(Held):
    """Rows sharded over the mesh, padded to N_pad, a multiple of `block`.

    Attributes:
      short: `[N_pad, S]`, the factors for screening.
      error: f32 `[]`, the largest rounding error of a factor, as a distance.
      basis: f32 `[C, S - 1]`, the principal dimensions; None if all are kept.
      count: int32 `[]`, the number of rows, excluding padding.
      tile: rows of a block multiplied at once.
    """

    short: jax.Array
    error: jax.Array
    basis: jax.Array | None
    count: jax.Array
    tile: int = flax.struct.field(pytree_node=False, kw_only=True)

    def specs(self) -> "Placed":
        """Returns the partition spec of each array."""
        return self.replace(
            whole=SPLIT,
            short=SPLIT,
            error=WHOLE,
            basis=None if self.basis is None else WHOLE,
            count=WHOLE,
        )

    def real(
        self, local: jax.Array, number: jax.Array, asked: Asked
    ) -> jax.Array:
        """Returns which rows are not padding."""
        return number < self.count


def block_and_tile(count: int, devices: int = 1) -> tuple[int, int]:
    """Returns the number of rows per block and per tile for `count` rows."""
    local = -(-count // devices)
    blocks = -(-local // _BLOCK)
    tiles = -(-local // (blocks * _TILE))
    tile = -(-local // (blocks * tiles * GROUP)) * GROUP
    return tile * tiles, tile


def place(
    whole: np.ndarray,
    mesh: Mesh,
    basis: np.ndarray | None,
    dtype: jnp.dtype,
) -> Placed:
    """Shards unit rows f32 `[N, C]` over the mesh."""
    count, width = whole.shape
    block, tile = block_and_tile(count, mesh.size)
    mine = -(-count // (mesh.size * block)) * block  # rows per device
    total = mine * mesh.size
    whole = np.pad(whole, ((0, total - count), (0, 0)))
    dealt = whole.reshape(-1, mesh.size, block, width)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        device = index[0].indices(total)[0] // mine
        return dealt[:, device].reshape(mine, width)

    held = jax.make_array_from_callback((total, width), rows(mesh), part)
    basis = None if basis is None else jnp.asarray(basis)
    short, error = jax.jit(short_factors.shorten, static_argnames="dtype")(
        held, basis, dtype=dtype
    )
    return Placed(
        whole=held,
        short=short,
        error=error.max(),
        basis=basis,
        count=jnp.int32(count),
        block=block,
        tile=tile,
        mesh=mesh,
    )


def screen(
    placed: Placed,
    short_QxS: jax.Array,
    tile: int,
    number: jax.Array,
    asked: Shortlist,
    theirs: Shortlist | None,
    *,
    count: jax.Array,
    same: bool,
) -> tuple[Shortlist, Shortlist | None]:
    """Screens the placed rows of this device for a block of query rows.

    Args:
      placed: the rows to search in.
      short_QxS: factors of the query rows.
      tile: number of query rows multiplied at once.
      number: int32 `[]`, index of the block in its set.
      asked: shortlists `[Q, K + 1]` of the query rows so far.
      theirs: shortlists of this device's placed rows, with groups of query
        rows; None to skip them.
      count: int32 `[]`, total number of query rows, excluding padding.
      same: whether both sets are the same; its blocks are screened in order,
        so earlier blocks have already been compared with this one.

    Returns:
      Both shortlists, updated.
    """
    group_G = jnp.arange(placed.block // GROUP)
    group_H = jnp.arange(len(short_QxS) // GROUP)
    first_asked = number * len(group_H)

    def visit(slot, lists):
        asked, theirs = lists
        block = slot * placed.mesh.size + jax.lax.axis_index(AXIS)
        short_BxS = jax.lax.dynamic_slice_in_dim(
            placed.short, slot * placed.block, placed.block
        )
        forth_QxG, back_BxH = _maxima(
            short_QxS, tile, short_BxS, placed.tile, theirs is not None
        )
        first = block * len(group_G)
        real_G = (first + group_G) * GROUP < placed.count
        if same:
            real_G &= block >= number
        asked = asked.offer(forth_QxG, first, real_G)
        if theirs is not None:
            real_H = (first_asked + group_H) * GROUP < count
            if same:
                real_H &= block > number
            lists = theirs.block(slot, placed.block)
            lists = lists.offer(back_BxH, first_asked, real_H)
            theirs = theirs.with_block(slot, lists)
        return asked, theirs

    first_slot = number // placed.mesh.size if same else 0
    slots = len(placed.short) // placed.block
    return jax.lax.fori_loop(first_slot, slots, visit, (asked, theirs))


def _maxima(
    row_QxS: jax.Array,
    row_tile: int,
    other_BxS: jax.Array,
    other_tile: int,
    both: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns the largest product per row and group, in both directions.

    Returns:
      f32 `[Q, B / 8]`, and f32 `[B, Q / 8]` or None.
    """
    rows, others = len(row_QxS), len(other_BxS)
    forth_QxG = jnp.zeros((rows, others // GROUP), jnp.float32)
    back_BxH = jnp.zeros((others, rows // GROUP), jnp.float32) if both else None
    tiles = others // other_tile

    def meet(number, maxima):
        forth_QxG, back_BxH = maxima
        row = number // tiles * row_tile
        other = number % tiles * other_tile
        product_UxT = short_factors.products(
            jax.lax.dynamic_slice_in_dim(other_BxS, other, other_tile),
            jax.lax.dynamic_slice_in_dim(row_QxS, row, row_tile),
        )
        # Query rows are the minor axis, so the maxima are vectorized.
        largest_TxG = product_UxT.reshape(-1, GROUP, row_tile).max(1).T
        forth_QxG = jax.lax.dynamic_update_slice(
            forth_QxG, largest_TxG, (row, other // GROUP)
        )
        if both:
            largest_UxH = product_UxT.reshape(other_tile, -1, GROUP).max(2)
            back_BxH = jax.lax.dynamic_update_slice(
                back_BxH, largest_UxH, (other, row // GROUP)
            )
        return forth_QxG, back_BxH

    return jax.lax.fori_loop(
        0, rows // row_tile * tiles, meet, (forth_QxG, back_BxH)
    )
