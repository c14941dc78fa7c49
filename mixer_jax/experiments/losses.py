"""Losses that the experiments compare, as pure functions.

Losses with class vectors take the embeddings of queries and documents as B
equal samples of their category. Losses of pairs compare queries with documents,
of which row i forms a pair; two pairs may share a category, and are then not
each other's negatives. InfoNCE is `baselines.symmetric_infonce`.

Shapes: B samples or pairs, C categories, D embedding.
"""

import jax
import jax.numpy as jnp

from mixer_jax.models.towers import normalize


def cosface(
    embeddings_BxD: jax.Array,
    label_B: jax.Array,
    proxies_CxD: jax.Array,
    scale: jax.typing.ArrayLike,
    margin: jax.typing.ArrayLike,
) -> jax.Array:
    """Returns the mean CosFace loss over all categories; this project's loss.

    It equals the loss of the head `exact`, which computes it in chunks.

    Args:
      embeddings_BxD: unit rows, f32.
      label_B: categories, int32.
      proxies_CxD: proxies of any length, f32.
      scale: s, the factor of the cosines.
      margin: m, subtracted from the target's cosine.

    Returns:
      f32 [].

    References:
      Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition"
      (arXiv 1801.09414), equation 4.
    """
    cosine_BxC = embeddings_BxD @ normalize(proxies_CxD).T
    target_BxC = jax.nn.one_hot(label_B, len(proxies_CxD))
    logits_BxC = scale * (cosine_BxC - margin * target_BxC)
    return -(jax.nn.log_softmax(logits_BxC) * target_BxC).sum(1).mean()


def proxy_nca(
    embeddings_BxD: jax.Array,
    label_B: jax.Array,
    proxies_CxD: jax.Array,
    scale: jax.typing.ArrayLike,
) -> jax.Array:
    """Returns the mean Proxy-NCA loss.

    -log(exp(-d(x, p_y)) / sum over other categories c of exp(-d(x, p_c))),
    where d is the squared distance of vectors of length sqrt(scale).

    Args:
      embeddings_BxD: unit rows, f32.
      label_B: categories, int32.
      proxies_CxD: proxies of any length, f32.
      scale: squared length of embeddings and proxies in the distance.

    Returns:
      f32 [].

    References:
      Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies"
      (arXiv 1703.07464), equation 4.
    """
    cosine_BxC = embeddings_BxD @ normalize(proxies_CxD).T
    distance_BxC = scale * (2.0 - 2.0 * cosine_BxC)
    target_BxC = jax.nn.one_hot(label_B, len(proxies_CxD), dtype=bool)
    own_B = jnp.where(target_BxC, distance_BxC, 0.0).sum(1)
    others_BxC = jnp.where(target_BxC, -jnp.inf, -distance_BxC)
    return (own_B + jax.nn.logsumexp(others_BxC, axis=1)).mean()


def proxy_anchor(
    embeddings_BxD: jax.Array,
    label_B: jax.Array,
    proxies_CxD: jax.Array,
    alpha: jax.typing.ArrayLike,
    delta: jax.typing.ArrayLike,
) -> jax.Array:
    """Returns the Proxy-Anchor loss.

    Args:
      embeddings_BxD: unit rows, f32.
      label_B: categories, int32.
      proxies_CxD: proxies of any length, f32.
      alpha: the factor of the cosines.
      delta: the margin.

    Returns:
      f32 [].

    References:
      Kim et al., "Proxy Anchor Loss for Deep Metric Learning" (arXiv
      2003.13911), equation 4.
    """
    cosine_BxC = embeddings_BxD @ normalize(proxies_CxD).T
    target_BxC = jax.nn.one_hot(label_B, len(proxies_CxD), dtype=bool)

    def soften(logits_BxC: jax.Array, counted_BxC: jax.Array) -> jax.Array:
        """Returns log(1 + the sum over the batch of exp(logits)), [C]."""
        logits_BxC = jnp.where(counted_BxC, logits_BxC, -jnp.inf)
        none_1xC = jnp.zeros((1, logits_BxC.shape[1]))
        both = jnp.concatenate([none_1xC, logits_BxC])
        return jax.nn.logsumexp(both, axis=0)

    pulled_C = soften(-alpha * (cosine_BxC - delta), target_BxC)
    pushed_C = soften(alpha * (cosine_BxC + delta), ~target_BxC)
    # A proxy without a positive in the batch adds log(1) = 0.
    return pulled_C.sum() / target_BxC.any(0).sum() + pushed_C.mean()


def linear_softmax(
    outputs_BxD: jax.Array,
    label_B: jax.Array,
    kernel_CxD: jax.Array,
    bias_C: jax.Array,
) -> jax.Array:
    """Returns the mean cross entropy of a linear classifier.

    Neither the outputs nor the class vectors are normalized, and there is no
    margin.

    Args:
      outputs_BxD: f32.
      label_B: categories, int32.
      kernel_CxD: class vectors, f32.
      bias_C: f32.

    Returns:
      f32 [].

    References:
      Zhai, Wu, "Classification is a Strong Baseline for Deep Metric Learning"
      (arXiv 1811.12649), section 3, without its normalization.
    """
    logits_BxC = outputs_BxD @ kernel_CxD.T + bias_C[None]
    target_BxC = jax.nn.one_hot(label_B, len(kernel_CxD))
    return -(jax.nn.log_softmax(logits_BxC) * target_BxC).sum(1).mean()


def batch_hard_triplet(
    query_BxD: jax.Array,
    document_BxD: jax.Array,
    label_B: jax.Array,
    margin: jax.typing.ArrayLike,
) -> jax.Array:
    """Returns the batch-hard triplet loss between queries and documents.

    Each query is an anchor: its farthest document of its category should be
    nearer than its nearest document of another category, by a margin of the
    Euclidean distance; likewise each document with the queries. Anchors without
    a negative in the batch are not counted.

    Args:
      query_BxD: unit rows, f32.
      document_BxD: unit rows, f32; row i belongs to query i.
      label_B: categories, int32.
      margin: in units of the distance, which is at most 2.

    Returns:
      f32 [].

    References:
      Hermans et al., "In Defense of the Triplet Loss for Person
      Re-Identification" (arXiv 1703.07737), equation 5.
    """
    # The square root has an infinite slope at 0.
    square_BxB = jnp.maximum(2.0 - 2.0 * query_BxD @ document_BxD.T, 1e-6)
    distance_BxB = jnp.sqrt(square_BxB)
    same_BxB = label_B[:, None] == label_B[None]
    total = 0.0
    for axis in (0, 1):
        far = jnp.where(same_BxB, distance_BxB, -jnp.inf).max(axis)
        near = jnp.where(same_BxB, jnp.inf, distance_BxB).min(axis)
        total += jnp.maximum(margin + far - near, 0.0).sum()
    counted = (~same_BxB).any(0).sum() + (~same_BxB).any(1).sum()
    return total / jnp.maximum(counted, 1)


def sigmoid_pairs(
    query_BxD: jax.Array,
    document_BxD: jax.Array,
    label_B: jax.Array,
    scale: jax.typing.ArrayLike,
    bias: jax.typing.ArrayLike,
) -> jax.Array:
    """Returns SigLIP's sigmoid loss of all pairs, per query.

    Other pairs of the same category are not counted.

    Args:
      query_BxD: unit rows, f32.
      document_BxD: unit rows, f32; row i belongs to query i.
      label_B: categories, int32.
      scale: the inverse temperature.
      bias: added to the scaled cosines.

    Returns:
      f32 [].

    References:
      Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv
      2303.15343), equation in section 3.2.
    """
    logits_BxB = scale * query_BxD @ document_BxD.T + bias
    own_BxB = jnp.eye(len(label_B), dtype=bool)
    same_BxB = label_B[:, None] == label_B[None]
    signs_BxB = jnp.where(own_BxB, 1.0, -1.0)
    losses_BxB = -jax.nn.log_sigmoid(signs_BxB * logits_BxB)
    counted_BxB = own_BxB | ~same_BxB
    return jnp.where(counted_BxB, losses_BxB, 0.0).sum() / len(label_B)
