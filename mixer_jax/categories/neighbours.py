"""Exact nearest neighbours by cosine; the gallery is split over the mesh.

The same code serves a laptop and a pod. Rows are searched for in blocks, and a
block in two steps:

1. *Screening* goes through the whole gallery with short factors: the leading
   principal dimensions, rounded to bfloat16 where the processor multiplies
   that faster. A group of gallery rows is known by its largest product alone,
   so neither the products nor their sorting ever become large.
2. *Deciding* scores the rows of the best groups with the whole f32 vectors.

What a short factor leaves out is bounded (Cauchy-Schwarz), so for each row it
is checked that no other group can hold a nearer one. The few rows that fail
this check are searched for again with whole factors, then among more groups:
the answer is exact whatever was screened with.
"""

import collections
from collections.abc import Callable
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mixer_jax.categories import short_factors
from mixer_jax.categories.copies import Copies
from mixer_jax.mesh import AXIS, make_mesh, rows

_GROUP = 8  # gallery rows that one maximum stands for
_BLOCK = 2048  # gallery rows screened at once on a device: fit its cache
_ROWS = 1024  # rows searched for at once, at most
_AHEAD = 1  # blocks that devices have to do while results are fetched
_SPARE = 22  # groups that are scored beside k
_MORE = 4  # times as many groups for rows that were in doubt
_SCORED = 2**22  # numbers of the gallery gathered at once to be scored


def cosine_top_k(
    rows: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    same: bool = False,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `gallery` nearest to each of `rows`, exactly.

    Args:
      rows: `[N, C]` float32 of unit length, or zeros.
      gallery: `[M, C]` float32 of unit length, or zeros.
      k: neighbours a row; fewer where the gallery is smaller.
      same: both are the same set, and a row is not its own neighbour.
      mesh: the devices that the gallery is split over; all by default. The
        result does not depend on it.

    Returns:
      `(index [N, k] int64, cosine [N, k] float32)`, nearest first; of equal
      cosines the lower index.

    Raises:
      ValueError: if a row is not finite or the widths differ.
    """
    for name, x in (("rows", rows), ("gallery", gallery)):
        if not np.isfinite(x).all():
            bad = int(np.argmin(np.isfinite(x).all(axis=1)))
            raise ValueError(f"Row {bad} of the {name} is not finite.")
    if rows.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"Rows of shape {rows.shape} cannot be compared with a gallery of "
            f"shape {gallery.shape}."
        )
    k = max(min(k, len(gallery) - int(same)), 0)
    index = np.zeros((len(rows), k), np.int64)
    cosine = np.zeros(index.shape, np.float32)
    if not index.size:
        return index, cosine
    # Equal rows have equal neighbours. A shop's placeholder picture may stand
    # in the catalogue ten thousand times: it is searched for, and found, once.
    copies = Copies(gallery)
    asked = copies if same else Copies(rows)
    wanted = min(k + int(same), len(copies.first))
    near, score = _search(
        _take(rows, asked.first),
        _take(gallery, copies.first),
        wanted,
        make_mesh() if mesh is None else mesh,
    )
    for start in range(0, len(rows), _ROWS):
        these = np.arange(start, min(start + _ROWS, len(rows)))
        code = asked.code[these]
        own = these if same else None
        index[these], cosine[these] = copies.expand(
            near[code], score[code], k, own
        )
    return index, cosine


def _take(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen rows as float32, without a copy if they are all."""
    whole = len(chosen) == len(rows)
    return np.asarray(rows if whole else rows[chosen], np.float32)


class _Gallery(flax.struct.PyTreeNode):
    """Gallery rows, split over the mesh; N_pad is a multiple of the groups.

    Attributes:
      whole: f32 `[N_pad, C]`, unit rows.
      short: `[N_pad, S]`, what screening multiplies.
      error: f32 `[]`, the largest distance between a row and its rounding.
      basis: f32 `[C, S - 1]`, the principal dimensions; None if all are kept.
      count: int32 `[]`, the number of true rows.
      block: rows screened at once.
      mesh: the mesh that holds the rows.
    """

    whole: jax.Array
    short: jax.Array
    error: jax.Array
    basis: jax.Array | None
    count: jax.Array
    block: int = flax.struct.field(pytree_node=False)
    mesh: Mesh = flax.struct.field(pytree_node=False)


def _search(
    wanted: np.ndarray, gallery: np.ndarray, k: int, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """`cosine_top_k` among rows that differ."""
    index = np.zeros((len(wanted), k), np.int64)
    cosine = np.zeros(index.shape, np.float32)
    groups = -(-len(gallery) // _GROUP)
    kept = min(k + _SPARE, groups)
    placed = _place(
        gallery,
        mesh,
        short_factors.principal(wanted, gallery),
        short_factors.fast_dtype(),
    )
    left = _blockwise(
        placed, wanted, index, cosine, np.arange(len(wanted)), kept
    )
    if len(left):
        placed = placed.replace(
            short=placed.whole, basis=None, error=jnp.float32(0)
        )
    while len(left):
        left = _blockwise(placed, wanted, index, cosine, left, kept)
        kept = min(kept * _MORE, groups)
    return index, cosine


def _blockwise(
    gallery: _Gallery,
    wanted: np.ndarray,
    index: np.ndarray,
    cosine: np.ndarray,
    left: np.ndarray,
    kept: int,
) -> np.ndarray:
    """Searches for the rows `left`; returns those whose result is in doubt."""
    block = min(_ROWS, 1 << (len(left) - 1).bit_length())
    doubted, begun = [], collections.deque()

    def finish() -> None:
        these, found = begun.popleft()
        row, score, sure = (x[: len(these)] for x in jax.device_get(found))
        index[these], cosine[these] = row, score
        doubted.append(these[~sure])

    for start in range(0, len(left), block):
        these = left[start : start + block]
        asked = np.zeros((block, wanted.shape[1]), np.float32)
        asked[: len(these)] = wanted[these]
        begun.append((these, _top_k(gallery, asked, index.shape[1], kept)))
        if len(begun) > _AHEAD:
            finish()
    while begun:
        finish()
    return np.concatenate(doubted)


def _place(
    gallery: np.ndarray,
    mesh: Mesh,
    basis: np.ndarray | None,
    dtype: jnp.dtype,
) -> _Gallery:
    """Splits a gallery over the mesh, in whole blocks for each device."""
    count, width = gallery.shape
    local = -(-count // mesh.size)
    number = -(-local // _BLOCK)
    block = -(-local // (number * _GROUP)) * _GROUP
    total = block * number * mesh.size

    def part(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(total)
        part = gallery[start:stop]
        missing = stop - start - len(part)
        return np.pad(part, ((0, missing), (0, 0))) if missing else part

    whole = jax.make_array_from_callback((total, width), rows(mesh), part)
    basis = None if basis is None else jnp.asarray(basis)
    short, error = jax.jit(short_factors.shorten, static_argnames="dtype")(
        whole, basis, dtype=dtype
    )
    return _Gallery(
        whole=whole,
        short=short,
        error=error.max(),
        basis=basis,
        count=jnp.int32(count),
        block=block,
        mesh=mesh,
    )


def _on_mesh(function: Callable, gallery: _Gallery) -> Callable:
    """Maps `function(gallery, rows)` over the gallery's devices."""
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    specs = gallery.replace(
        whole=split,
        short=split,
        error=whole,
        basis=None if gallery.basis is None else whole,
        count=whole,
    )
    return jax.shard_map(
        function,
        mesh=gallery.mesh,
        in_specs=(specs, whole),
        out_specs=whole,
        # The loops start from constants and the all-gather's result is equal
        # on all devices; the checker would want both annotated.
        check_vma=False,
    )


@partial(jax.jit, static_argnames=("k", "kept"))
def _top_k(gallery, row_QxC, k, kept):
    """Finds the k nearest of a block of rows.

    Returns:
      Gallery rows int32 `[Q, k]`, cosines f32 `[Q, k]`, and bool `[Q]`: whether
      these are surely the nearest.
    """

    def local(gallery, row_QxC):
        short_QxS, error_Q = short_factors.shorten(
            row_QxC, gallery.basis, gallery.short.dtype
        )
        group_QxG, bound_Q = _screen(gallery, short_QxS, kept)
        cosine_QxK, near_QxK = _decide(gallery, row_QxC, group_QxG, k)
        gather = partial(jax.lax.all_gather, axis_name=AXIS, axis=1, tiled=True)
        # Devices hold the rows in order, so ties still fall to the lower.
        cosine_QxK, near_QxK = _best(gather(cosine_QxK), gather(near_QxK), k)
        error_Q += gallery.error + 2 * short_factors.rounding(row_QxC.shape[1])
        bound_Q = jax.lax.pmax(bound_Q, AXIS) + error_Q
        return near_QxK, cosine_QxK, cosine_QxK[:, -1] > bound_Q

    return _on_mesh(local, gallery)(gallery, row_QxC)


def _best(
    score_QxN: jax.Array, name_QxN: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """The k largest scores and their names, earlier ones first if equal."""
    score_QxK, place_QxK = jax.lax.top_k(score_QxN, k)
    return score_QxK, jnp.take_along_axis(name_QxN, place_QxK, axis=1)


def _screen(
    gallery: _Gallery, short_QxS: jax.Array, kept: int
) -> tuple[jax.Array, jax.Array]:
    """Finds the groups of this device's rows with the largest products.

    Returns:
      int32 `[Q, kept]`, rising, the groups' numbers, too large ones where there
      are fewer; and f32 `[Q]`, the largest product of all other groups.
    """
    groups = gallery.block // _GROUP
    total = len(gallery.short) // _GROUP
    first = jax.lax.axis_index(AXIS) * total

    def visit(best, step):
        start = step * gallery.block
        short_BxS = jax.lax.dynamic_slice_in_dim(
            gallery.short, start, gallery.block
        )
        score_BxQ = short_factors.products(short_BxS, short_QxS)
        # Rows of queries side by side: maxima are taken of whole vectors.
        most_GxQ = score_BxQ.reshape(groups, _GROUP, -1).max(1)
        group_G = step * groups + jnp.arange(groups)
        real_G = (first + group_G) * _GROUP < gallery.count
        most_QxG = jnp.where(real_G[:, None], most_GxQ, -jnp.inf).T
        group_QxG = jnp.broadcast_to(group_G[None, :], most_QxG.shape)
        return _best(
            jnp.concatenate([best[0], most_QxG], axis=1),
            jnp.concatenate([best[1], group_QxG], axis=1),
            kept + 1,
        ), None

    shape = (len(short_QxS), kept + 1)
    start = (jnp.full(shape, -jnp.inf), jnp.full(shape, total))
    steps = jnp.arange(len(gallery.short) // gallery.block)
    (most_QxG, group_QxG), _ = jax.lax.scan(visit, start, steps)
    return jnp.sort(group_QxG[:, :kept], axis=1), most_QxG[:, kept]


def _decide(
    gallery: _Gallery, row_QxC: jax.Array, group_QxG: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Scores the rows of chosen groups whole.

    Returns:
      The k largest cosines f32 `[Q, k]`, -inf where there are fewer, and whose
      they are, int32 `[Q, k]`.
    """
    width = row_QxC.shape[1]
    whole_NxRxC = gallery.whole.reshape(-1, _GROUP, width)
    first = jax.lax.axis_index(AXIS) * len(gallery.whole)

    def score(asked):
        row_C, group_G = asked
        near_GxRxC = whole_NxRxC.at[group_G].get(mode="clip")
        cosine_N = jnp.matmul(
            near_GxRxC.reshape(-1, width),
            row_C,
            precision=jax.lax.Precision.HIGHEST,
        )
        place_GxR = group_G[:, None] * _GROUP + jnp.arange(_GROUP)[None, :]
        real_GxR = place_GxR < len(gallery.whole)
        real_GxR &= first + place_GxR < gallery.count
        cosine_N = jnp.where(real_GxR.reshape(-1), cosine_N, -jnp.inf)
        return cosine_N, (first + place_GxR).reshape(-1)

    kept = group_QxG.shape[1]
    # A power of two, as the number of rows is, which it so divides.
    at_once = 1 << max(_SCORED // (kept * _GROUP * width), 1).bit_length() - 1
    cosine_QxN, place_QxN = jax.lax.map(
        score, (row_QxC, group_QxG), batch_size=min(at_once, len(row_QxC))
    )
    missing = max(k - cosine_QxN.shape[1], 0)
    cosine_QxN = jnp.pad(
        cosine_QxN, ((0, 0), (0, missing)), constant_values=-jnp.inf
    )
    place_QxN = jnp.pad(place_QxN, ((0, 0), (0, missing)))
    return _best(cosine_QxN, place_QxN, k)
