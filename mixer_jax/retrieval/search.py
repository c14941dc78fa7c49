"""Exact cosine search over documents whose rows are sharded over a mesh.

Documents are scored in blocks of a fixed number of rows, independent of the
number of devices. Scores are therefore bitwise equal on one device and on
eight, and ties (broken by the lower document row) are resolved identically.
At any time, memory only holds the scores of one block of queries and one block
of documents.
"""

from collections.abc import Callable
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mixer_jax.runtime.arrays import normalize
from mixer_jax.runtime.mesh import AXIS, rows

DOCUMENT_BLOCK = 1024  # rows scored at once per device
QUERY_BLOCK = 128  # queries per call
RELEVANT_BLOCK = 16  # relevant documents ranked at once per query


class Gallery(flax.struct.PyTreeNode):
    """The documents to search.

    Attributes:
      documents: f32 `[N_pad, D]`, unit rows, sharded over the mesh.
      images: int32 `[N_pad]`, equal numbers for equal images; -1 for none.
      count: int32 `[]`, the number of rows without padding.
      block: rows scored at once per device.
      mesh: the mesh that holds the rows.
    """

    documents: jax.Array
    images: jax.Array
    count: jax.Array
    block: int = flax.struct.field(pytree_node=False)
    mesh: Mesh = flax.struct.field(pytree_node=False)


def make_gallery(
    documents: np.ndarray,
    mesh: Mesh,
    images: np.ndarray | None = None,
    block: int = DOCUMENT_BLOCK,
) -> Gallery:
    """Normalizes the documents and shards their rows over the mesh.

    Args:
      documents: f32 `[N, D]`, one embedding per row.
      mesh: the mesh to shard the rows over.
      images: int32 `[N]`, equal numbers for equal images, -1 for no image.
        Documents with a query's own image are excluded from its results.
      block: rows scored at once; results do not depend on the mesh, but may
        differ in the last bit between block sizes.

    Raises:
      ValueError: if there is no document or an embedding is not finite.
    """
    count = len(documents)
    if not count:
        raise ValueError("There are no documents to search.")
    if images is None:
        images = np.full(count, -1, np.int32)
    padding = -count % (block * mesh.size)
    documents = np.pad(_unit(documents), ((0, padding), (0, 0)))
    images = np.pad(images.astype(np.int32), (0, padding), constant_values=-1)
    return Gallery(
        documents=jax.device_put(documents, rows(mesh)),
        images=jax.device_put(images, rows(mesh)),
        count=jnp.int32(count),
        block=block,
        mesh=mesh,
    )


def top_k(
    gallery: Gallery,
    queries: np.ndarray,
    k: int,
    images: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds each query's k nearest documents.

    Args:
      gallery: the documents.
      queries: f32 `[Q, D]`.
      k: the number of documents to return.
      images: int32 `[Q]`, each query's own image, as in `make_gallery`.

    Returns:
      Cosines f32 `[Q, k]` in descending order and document rows int32 `[Q, k]`;
      -inf and -1 where fewer than k documents remain.
    """

    def search(query_BxD, image_B):
        return _top_k(gallery, query_BxD, image_B, k)

    return _blockwise(search, queries, images)


def positions(
    gallery: Gallery,
    queries: np.ndarray,
    relevant: np.ndarray,
    images: np.ndarray | None = None,
) -> np.ndarray:
    """Returns positions of given documents in each query's full ranking.

    A document's position is one more than the number of documents ahead of it,
    so the ranking itself is never materialized.

    Args:
      gallery: the documents.
      queries: f32 `[Q, D]`.
      relevant: int32 `[Q, R]`, document rows; -1 is padding.
      images: int32 `[Q]`, each query's own image, as in `make_gallery`.

    Returns:
      int32 `[Q, R]`, from 1; 0 for padding and for excluded documents.
    """
    padding = -relevant.shape[1] % RELEVANT_BLOCK
    padded = np.pad(relevant, ((0, 0), (0, padding)), constant_values=-1)
    columns = [
        _blockwise(
            partial(_positions, gallery),
            queries,
            images,
            padded[:, start : start + RELEVANT_BLOCK].astype(np.int32),
        )
        for start in range(0, padded.shape[1], RELEVANT_BLOCK)
    ]
    columns = columns or [np.zeros((len(queries), 0), np.int32)]
    return np.concatenate(columns, axis=1)[:, : relevant.shape[1]]


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise ValueError(
            f"{len(bad)} of {len(vectors)} embeddings are not finite; the "
            f"first is row {bad[0]}."
        )
    return normalize(vectors)


def _blockwise(
    function: Callable,
    queries: np.ndarray,
    images: np.ndarray | None,
    *extra: np.ndarray,
):
    """Applies `function` to blocks of queries, padding the last one."""
    if images is None:
        images = np.full(len(queries), -1, np.int32)
    arrays = (_unit(queries), np.asarray(images, np.int32), *extra)
    results = []
    for start in range(0, max(len(queries), 1), QUERY_BLOCK):
        block = [array[start : start + QUERY_BLOCK] for array in arrays]
        count = len(block[0])
        padded = [np.resize(b, (QUERY_BLOCK, *b.shape[1:])) for b in block]
        result = jax.device_get(function(*padded))
        results.append(jax.tree.map(lambda leaf, n=count: leaf[:n], result))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)


def _score(
    gallery: Gallery, query_BxD: jax.Array, image_B: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scores one block of this device's rows.

    Returns:
      Cosines `[B, block]`, -inf for padding and for the query's own image, and
      the rows' numbers in the whole gallery `[block]`.
    """
    start = step * gallery.block
    document_KxD = jax.lax.dynamic_slice_in_dim(
        gallery.documents, start, gallery.block
    )
    image_K = jax.lax.dynamic_slice_in_dim(gallery.images, start, gallery.block)
    first = jax.lax.axis_index(AXIS) * gallery.documents.shape[0] + start
    row_K = first + jnp.arange(gallery.block)
    cosine_BxK = jnp.einsum(
        "bd,kd->bk",
        query_BxD,
        document_KxD,
        precision=jax.lax.Precision.HIGHEST,
    )
    # Scores are compared for equality across calls. The barrier keeps XLA from
    # fusing later operations into the product, which could change its rounding.
    cosine_BxK = jax.lax.optimization_barrier(cosine_BxK)
    own_BxK = image_B[:, None] == image_K[None, :]
    own_BxK &= (image_K >= 0)[None, :]
    hidden_BxK = own_BxK | (row_K >= gallery.count)[None, :]
    return jnp.where(hidden_BxK, -jnp.inf, cosine_BxK), row_K


def _sharded(function: Callable, gallery: Gallery, arguments: int) -> Callable:
    """Maps `function(gallery, *arguments)` over the gallery's devices."""
    split, replicated = PartitionSpec(AXIS), PartitionSpec()
    specs = gallery.replace(documents=split, images=split, count=replicated)
    return jax.shard_map(
        function,
        mesh=gallery.mesh,
        in_specs=(specs, *([replicated] * arguments)),
        out_specs=replicated,
        # The check would require annotations for the loops' constant initial
        # values and for the all-gather, whose result is equal on all devices.
        check_vma=False,
    )


def _steps(gallery: Gallery) -> jax.Array:
    return jnp.arange(gallery.documents.shape[0] // gallery.block)


@partial(jax.jit, static_argnames="k")
def _top_k(gallery, query_BxD, image_B, k):
    def best(score_BxN, row_BxN):
        # Rows are in order, and `top_k` keeps the first of equal scores.
        score_BxK, place_BxK = jax.lax.top_k(score_BxN, k)
        return score_BxK, jnp.take_along_axis(row_BxN, place_BxK, axis=1)

    def local(gallery, query_BxD, image_B):
        def scan(carry, step):
            score_BxN, row_N = _score(gallery, query_BxD, image_B, step)
            row_BxN = jnp.broadcast_to(row_N[None, :], score_BxN.shape)
            score_BxN = jnp.concatenate([carry[0], score_BxN], axis=1)
            row_BxN = jnp.concatenate([carry[1], row_BxN], axis=1)
            return best(score_BxN, row_BxN), None

        shape = (query_BxD.shape[0], k)
        start = (jnp.full(shape, -jnp.inf), jnp.full(shape, -1))
        nearest, _ = jax.lax.scan(scan, start, _steps(gallery))
        gather = partial(jax.lax.all_gather, axis_name=AXIS, axis=1, tiled=True)
        score_BxK, row_BxK = best(*map(gather, nearest))
        return score_BxK, jnp.where(score_BxK == -jnp.inf, -1, row_BxK)

    return _sharded(local, gallery, 2)(gallery, query_BxD, image_B)


@jax.jit
def _positions(gallery, query_BxD, image_B, relevant_BxR):
    def local(gallery, query_BxD, image_B, relevant_BxR):
        def look_up(score_BxR, step):
            score_BxK, row_K = _score(gallery, query_BxD, image_B, step)
            place_BxR = relevant_BxR - row_K[0]
            here_BxR = (place_BxR >= 0) & (place_BxR < gallery.block)
            found_BxR = jnp.take_along_axis(
                score_BxK, jnp.clip(place_BxR, 0, gallery.block - 1), axis=1
            )
            return jnp.where(here_BxR, found_BxR, score_BxR), None

        def count(ahead_BxR, step):
            score_BxK, row_K = _score(gallery, query_BxD, image_B, step)
            score_Bx1xK = score_BxK[:, None, :]
            score_BxRx1 = score_BxR[:, :, None]
            earlier_BxRxK = row_K[None, None, :] < relevant_BxR[:, :, None]
            tied_BxRxK = (score_Bx1xK == score_BxRx1) & earlier_BxRxK
            ahead_BxRxK = (score_Bx1xK > score_BxRx1) | tied_BxRxK
            return ahead_BxR + ahead_BxRxK.sum(-1, dtype=jnp.int32), None

        nowhere = jnp.full(relevant_BxR.shape, -jnp.inf)
        score_BxR, _ = jax.lax.scan(look_up, nowhere, _steps(gallery))
        score_BxR = jax.lax.pmax(score_BxR, AXIS)
        none = jnp.zeros(relevant_BxR.shape, jnp.int32)
        ahead_BxR, _ = jax.lax.scan(count, none, _steps(gallery))
        ahead_BxR = jax.lax.psum(ahead_BxR, AXIS)
        return jnp.where(score_BxR == -jnp.inf, 0, ahead_BxR + 1)

    return _sharded(local, gallery, 3)(
        gallery, query_BxD, image_B, relevant_BxR
    )
