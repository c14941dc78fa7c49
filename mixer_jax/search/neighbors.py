"""Exact nearest neighbors by cosine, with the rows sharded over the mesh.

The same code serves a laptop and a pod. Query rows are processed in blocks,
each in two steps:

1. *Screening* (`screening.py`) compares them with all other rows by short
   factors: the leading principal dimensions, rounded to bfloat16 on processors
   that multiply bfloat16 faster. Each row gets a shortlist of groups.
2. *Deciding* (`deciding.py`) scores the rows of these groups with the full f32
   vectors.

The part that a short factor omits is bounded (Cauchy-Schwarz), so a check for
each row tells whether another group may hold a nearer neighbor. For the few
rows that fail this check, the search is repeated with full factors, then among
more groups. The result is thus exact, whatever factors are used for screening.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mixer_jax.runtime.mesh import make_mesh
from mixer_jax.runtime.mesh import rows as split_rows
from mixer_jax.search import screening, short_factors
from mixer_jax.search.answers import Answer, nothing
from mixer_jax.search.copies import Copies
from mixer_jax.search.deciding import bound, decide
from mixer_jax.search.held import GROUP, SPLIT, WHOLE
from mixer_jax.search.queries import Asked
from mixer_jax.search.screening import Placed
from mixer_jax.search.shortlists import Shortlist

_SPARE = 22  # groups scored in addition to k
_MORE = 4  # factor by which the number of groups grows per retry
_EXPANDED = 1024  # rows whose copies are expanded at once


def cosine_top_k(
    rows: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    same: bool = False,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k rows of `gallery` nearest to each of `rows`, exactly.

    Args:
      rows: `[N, C]` float32 of unit length, or zeros.
      gallery: `[M, C]` float32 of unit length, or zeros.
      k: neighbors per row; fewer if the gallery is smaller.
      same: whether both are the same set; a row is then not its own neighbor.
      mesh: the devices that the gallery is sharded over; all by default. The
        result does not depend on it.

    Returns:
      `(index [N, k] int64, cosine [N, k] float32)`, nearest first; ties go to
      the lower index.

    Raises:
      ValueError: if a row is not finite or the widths differ.
    """
    return _top_k(rows, gallery, k, mesh, same=same, back=False)[0]


def mutual_top_k(
    rows: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    mesh: Mesh | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns `cosine_top_k` of `rows` in `gallery`, and vice versa.

    Each pair of rows is multiplied once for both directions.
    """
    forth, back = _top_k(rows, gallery, k, mesh, same=False, back=True)
    return forth, back


def _top_k(
    rows: np.ndarray,
    gallery: np.ndarray,
    k: int,
    mesh: Mesh | None,
    *,
    same: bool,
    back: bool,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns `cosine_top_k` and, if `back`, the reverse direction."""
    for name, x in (("rows", rows), ("gallery", gallery)):
        if not np.isfinite(x).all():
            bad = int(np.argmin(np.isfinite(x).all(axis=1)))
            raise ValueError(f"Row {bad} of the {name} is not finite.")
    if rows.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"Rows of shape {rows.shape} cannot be compared with a gallery of "
            f"shape {gallery.shape}."
        )
    forth_k = max(min(k, len(gallery) - int(same)), 0)
    back_k = min(k, len(rows))
    if not len(rows) or not len(gallery) or not forth_k:
        return [nothing(len(rows), forth_k), nothing(len(gallery), back_k)]
    # Search for identical rows only once: a placeholder image may occur ten
    # thousand times in a catalog.
    in_gallery = Copies(gallery)
    in_rows = in_gallery if same else Copies(rows)
    rows = take(rows, in_rows.first)
    answers = _search(
        rows,
        None if same else take(gallery, in_gallery.first),
        forth_k + int(same),
        back_k if back else None,
        make_mesh() if mesh is None else mesh,
    )
    ways = ((in_rows, in_gallery, forth_k), (in_gallery, in_rows, back_k))
    return [
        _expand(answer, asked, among, k, same)
        for answer, (asked, among, k) in zip(answers, ways, strict=False)
    ]


def take(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the chosen rows as float32, without a copy if all are chosen."""
    whole = len(chosen) == len(rows)
    return np.asarray(rows if whole else rows[chosen], np.float32)


def _expand(
    answer: Answer, asked: Copies, among: Copies, k: int, same: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the neighbors of all rows, given those of distinct rows."""
    index, cosine = nothing(len(asked.code), k)
    for start in range(0, len(index), _EXPANDED):
        these = np.arange(start, min(start + _EXPANDED, len(index)))
        code = asked.code[these]
        own = these if same else None
        index[these], cosine[these] = among.expand(
            answer.index[code], answer.cosine[code], k, own
        )
    return index, cosine


def _search(
    rows: np.ndarray,
    gallery: np.ndarray | None,
    k: int,
    back_k: int | None,
    mesh: Mesh,
) -> list[Answer]:
    """Searches for the neighbors of distinct rows.

    Args:
      rows: f32 `[N, C]`.
      gallery: f32 `[M, C]`; None to search among the rows themselves.
      k: neighbors per row; fewer if the gallery is smaller.
      back_k: neighbors per gallery row, likewise; None to skip gallery rows.
      mesh: the devices to use.

    Returns:
      The answer for the rows, then the one for the gallery unless skipped.
    """
    same = gallery is None
    gallery = rows if same else gallery
    place = partial(
        screening.place,
        mesh=mesh,
        basis=_agreed(short_factors.principal(rows, gallery), mesh),
        dtype=short_factors.fast_dtype(),
    )
    placed = place(gallery)
    forth = Answer(rows, min(k, len(gallery)))
    if same:
        _both_ways(placed, placed, forth, forth)
        _resolve(placed, forth)
        return [forth]
    if back_k is None:
        _one_way(placed, forth, np.arange(len(rows)), _kept(placed, forth))
        _resolve(placed, forth)
        return [forth]
    asked = place(rows)
    back = Answer(gallery, min(back_k, len(rows)))
    lists = _both_ways(placed, asked, forth, back)
    _resolve(placed, forth)
    for number, these, row_QxC in back.blocks(placed.block):
        back.put(
            these,
            _look_up(asked, lists, placed.error, row_QxC, number, k=back.k),
        )
    _resolve(asked, back)
    return [forth, back]


def _agreed(basis: np.ndarray | None, mesh: Mesh) -> np.ndarray | None:
    """Returns the basis of process 0: hosts may round differently."""
    if not mesh.is_multi_process:
        return basis
    shape = np.array([0, 0] if basis is None else basis.shape)
    shape = multihost_utils.broadcast_one_to_all(shape)
    if not shape.all():
        return None
    if basis is None or basis.shape != tuple(shape):
        basis = np.zeros(shape, np.float32)
    return multihost_utils.broadcast_one_to_all(basis)


def _kept(placed: Placed, answer: Answer, times: int = 1) -> int:
    """Returns the number of groups of placed rows to score per query row."""
    return min(times * (answer.k + _SPARE), -(-int(placed.count) // GROUP))


def _both_ways(
    placed: Placed, asked: Placed, forth: Answer, back: Answer
) -> Shortlist:
    """Searches for the query rows; returns the placed rows' shortlists."""
    lists = jax.jit(
        Shortlist.empty,
        static_argnums=(0, 1),
        out_shardings=split_rows(placed.mesh),
    )(len(placed.whole), _kept(asked, back))
    for number, these, row_QxC in forth.blocks(asked.block):
        lists, *found = _meet(
            placed,
            lists,
            row_QxC,
            number,
            asked.count,
            k=forth.k,
            kept=_kept(placed, forth),
            tile=asked.tile,
            same=asked is placed,
        )
        forth.put(these, found)
    return lists


def _one_way(
    placed: Placed, answer: Answer, chosen: np.ndarray, kept: int
) -> None:
    """Searches for the neighbors of the chosen rows."""
    block, tile = screening.block_and_tile(len(chosen))
    for number, these, row_QxC in answer.blocks(block, chosen):
        _, *found = _meet(
            placed,
            None,
            row_QxC,
            number,
            len(chosen),
            k=answer.k,
            kept=kept,
            tile=tile,
            same=False,
        )
        answer.put(these, found)


def _resolve(placed: Placed, answer: Answer) -> None:
    """Repeats the search for uncertain rows until all are certain."""
    left = answer.in_doubt()
    if len(left):
        placed = placed.replace(
            short=placed.whole, basis=None, error=jnp.float32(0)
        )
    times = 1
    while len(left):
        _one_way(placed, answer, left, _kept(placed, answer, times))
        left = answer.in_doubt()
        times *= _MORE


@partial(
    jax.jit,
    static_argnames=("k", "kept", "tile", "same"),
    donate_argnames="theirs",
)
def _meet(placed, theirs, row_QxC, number, count, *, k, kept, tile, same):
    """Finds the k nearest placed rows for a block of query rows.

    Args:
      placed: the rows to search in.
      theirs: shortlists of the placed rows, or None (see `screening.screen`).
      row_QxC: f32, the query rows.
      number: index of the block in its set.
      count: total number of query rows.
      k: number of neighbors.
      kept: number of groups to score.
      tile: see `screening.screen`.
      same: see `screening.screen`.

    Returns:
      `theirs` updated with the query rows; placed rows int32 `[Q, k]`, cosines
      f32 `[Q, k]`, and bool `[Q]`: whether these are certain to be the nearest.
    """

    def local(placed, theirs, row_QxC, number, count):
        short_QxS, error_Q = short_factors.shorten(
            row_QxC, placed.basis, placed.short.dtype
        )
        lists = Shortlist.empty(len(row_QxC), kept)
        if same:
            mine, slot = placed.holder(number)
            lists = theirs.block(slot, len(row_QxC)).only_if(mine)
        lists, theirs = screening.screen(
            placed,
            short_QxS,
            tile,
            number,
            lists,
            theirs,
            count=count,
            same=same,
        )
        error_Q += placed.error * (1 + error_Q)
        return theirs, *_decide(placed, lists, error_Q, row_QxC, k)

    split = None if theirs is None else SPLIT
    return jax.shard_map(
        local,
        mesh=placed.mesh,
        in_specs=(placed.specs(), split, WHOLE, WHOLE, WHOLE),
        out_specs=(split, WHOLE, WHOLE, WHOLE),
        # The checker would require annotations for loops that start from
        # constants and for gathered arrays, which are equal on all devices.
        check_vma=False,
    )(placed, theirs, row_QxC, jnp.int32(number), jnp.int32(count))


@partial(jax.jit, static_argnames="k")
def _look_up(placed, lists, error, row_QxC, number, *, k):
    """Finds the k nearest rows for a block with complete shortlists.

    Args:
      placed: the rows to search in.
      lists: shortlists of all query rows, in the order of `Placed.whole`.
      error: f32 `[]`, bound on the rounding errors of the query rows' factors.
      row_QxC: f32, the query rows.
      number: index of the block in its set.
      k: number of neighbors.

    Returns:
      The results of `_meet`, without the shortlists.
    """

    def local(placed, lists, error, row_QxC, number):
        mine, slot = placed.holder(number)
        lists = lists.block(slot, len(row_QxC)).only_if(mine)
        error += placed.error * (1 + error)
        return _decide(placed, lists, error, row_QxC, k)

    return jax.shard_map(
        local,
        mesh=placed.mesh,
        in_specs=(placed.specs(), SPLIT, WHOLE, WHOLE, WHOLE),
        out_specs=WHOLE,
        check_vma=False,
    )(placed, lists, error, row_QxC, jnp.int32(number))


def _decide(
    placed: Placed,
    lists: Shortlist,
    error_Q: jax.Array,
    row_QxC: jax.Array,
    k: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the results of `_look_up`, given this device's shortlists."""
    lists = lists.of_all_devices()
    near_QxK, cosine_QxK = decide(placed, lists, Asked(row_QxC), k)
    limit_Q = bound(lists, error_Q, row_QxC.shape[1])
    return near_QxK, cosine_QxK, cosine_QxK.min(1) > limit_Q
