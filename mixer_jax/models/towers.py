"""The two towers: a query image or a document -> one embedding.

Method of Mixer (arXiv 2305.03972); the equations are this project's reading.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.concept_memory import ConceptMemory
from mixer_jax.models.fusion import FUSIONS

Batch = dict[str, Any]


def normalize(x_BxD: jax.Array) -> jax.Array:
    """Unit rows in float32; a zero row stays zero, its gradient finite."""
    x_BxD = x_BxD.astype(jnp.float32)
    square = jnp.square(x_BxD).sum(-1, keepdims=True)
    return x_BxD * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def _interleave(first: jax.Array, second: jax.Array) -> jax.Array:
    # a0, b0, a1, b1, ...: unlike a concatenation it moves nothing between
    # devices when both are split over them by rows.
    both = jnp.stack([first, second], 1)
    return both.reshape(-1, *first.shape[1:])


class TransformationLayers(nn.Module):
    """One tower's own layers: x W + MLP(norm(x)).

    The MLP's last layer starts at zero, so the tower starts linear.

    Attributes:
      dim: D, of the output.
      hidden: width of the MLP.
      dropout: after the MLP's activation.
      dtype: of the computation.
    """

    dim: int
    hidden: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxC: jax.Array, train: bool = False) -> jax.Array:
        """[B, C] -> [B, D]; dropout, while training, needs its stream."""
        linear = nn.Dense(
            self.dim, use_bias=False, dtype=self.dtype, name="linear"
        )(x_BxC)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x_BxC)
        x = nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(x))
        return linear + nn.Dense(
            self.dim,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="out",
        )(x)


def align(params: Mapping[str, Any]) -> dict[str, Any]:
    """Makes both towers start as the same linear map of the image.

    The document tower gets the query tower's map as its fusion's projection
    of the image, and the identity after it. What a pretrained encoder already
    knows to be alike is then near from the first step on; towers that start
    apart have to find a common space first, and never generalise as well.

    Args:
      params: of a `Mixer` whose fusion adds to a projected image.

    Returns:
      The same tree with `fusion/image` and `document_layers/linear` replaced.
    """
    shared = params["query_layers"]["linear"]["kernel"]
    dim = shared.shape[1]
    layers = params["document_layers"] | {
        "linear": {"kernel": jnp.eye(dim, dtype=shared.dtype)}
    }
    fusion = params["fusion"] | {"image": {"kernel": shared}}
    return {**params, "document_layers": layers, "fusion": fusion}


def drop_parts(
    has_image: jax.Array,
    token_mask: jax.Array,
    drop_image: float,
    drop_text: float,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Hides the text of some documents, and the image of some others.

    Alone, each has to find the category by itself: the text is learned where
    the image would answer already, and shops' documents lack one or the other.

    Args:
      has_image: bool [B].
      token_mask: bool [B, L].
      drop_image: share of the images hidden, of documents that keep a text.
      drop_text: share of the texts hidden, of documents that have an image.
      key: of the chance.

    Returns:
      The same two; no document loses the only thing that it has.
    """
    text_key, image_key = jax.random.split(key)
    shape = has_image.shape
    hidden = has_image & jax.random.bernoulli(text_key, drop_text, shape)
    token_mask = token_mask & ~hidden[:, None]
    hidden = token_mask.any(1) & jax.random.bernoulli(
        image_key, drop_image, shape
    )
    return has_image & ~hidden, token_mask


class Mixer(nn.Module):
    """Query and document towers around shared encoders.

    Attributes:
      image_encoder: uint8 or float images [B, H, W, 3] -> [B, P, Ci], called
        with `train`.
      text_encoder: tokens and mask [B, L] -> [B, L, Ct], called with
        `train`; None for a fusion that reads no text.
      dim: D, of embeddings and concept vectors.
      hidden: width of the transformation layers.
      dropout: in the transformation layers.
      fusion_name: a key of `fusion.FUSIONS`.
      slots: S, of the concept memory.
      memory_norm: of the concept memory.
      drop_image: while training, see `drop_parts`.
      drop_text: while training, see `drop_parts`.
      dtype: of the computation; parameters and embeddings are float32.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module | None
    dim: int = 256
    hidden: int = 512
    dropout: float = 0.0
    fusion_name: str = "concept_attention"
    slots: int = 64
    memory_norm: str = "double"
    drop_image: float = 0.0
    drop_text: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the parts; freezing and learning rates go by these names."""
        self.query_layers = self._layers()
        self.document_layers = self._layers()
        self.fusion = FUSIONS[self.fusion_name](self.dim, self.dtype)
        if self.text_encoder is not None:
            self.concept_memory = ConceptMemory(
                self.slots, self.dim, self.memory_norm, self.dtype
            )

    def _layers(self) -> TransformationLayers:
        return TransformationLayers(
            self.dim, self.hidden, self.dropout, self.dtype
        )

    def __call__(
        self, batch: Batch, train: bool = False
    ) -> dict[str, jax.Array]:
        """Embeds a training batch; all images pass the encoder together.

        Args:
          batch: as the data pipeline makes it: `query` with `image`
            [Bh, S, S, 3]; `document` with `image`, `has_image` [Bh], `tokens`
            and `token_mask` [Bh, L]. In place of both `image`s there may be
            `patches` [Bh, P, Ci], and in place of `tokens` there may be
            `token_vectors` [Bh, L, Ct]: what `encode_images` and
            `encode_texts` gave before. Or both have nothing but `embedding`
            [Bh, D], what `encode_query` and `encode_document` gave.
          train: batch statistics (where the encoder wants them), dropout and
            `drop_parts` (the "dropout" stream).

        Returns:
          f32 `query` and `document` [Bh, D] of unit length; `concept`
          [Bh, D] and `slots` [Bh, S], the mean attention of a text's tokens,
          both zero where there is no text, and absent where `embedding`s
          were given.
        """
        query, document = batch["query"], batch["document"]
        if "embedding" in query:
            return {
                "query": query["embedding"],
                "document": document["embedding"],
            }
        if "patches" in query:
            query_patches = self._patches(query, train)
            patches = self._patches(document, train)
        else:
            both = self.image_encoder(
                _interleave(query["image"], document["image"]), train=train
            )
            query_patches, patches = both[::2], both[1::2]
        has_image, mask = document["has_image"], document["token_mask"]
        if train and (self.drop_image or self.drop_text):
            has_image, mask = drop_parts(
                has_image,
                mask,
                self.drop_image,
                self.drop_text,
                self.make_rng("dropout"),
            )
        embeddings, concept, slots = self._document(
            patches,
            has_image,
            self._vectors(document, mask, train),
            mask,
            train,
        )
        return {
            "query": self._query(query_patches, train),
            "document": embeddings,
            "concept": concept,
            "slots": slots,
        }

    def encode_images(
        self, images: jax.Array, train: bool = False
    ) -> jax.Array:
        """Images [B, H, W, 3] -> patches [B, P, Ci]."""
        return self.image_encoder(images, train=train)

    def encode_texts(
        self, tokens: jax.Array, token_mask: jax.Array, train: bool = False
    ) -> jax.Array:
        """Tokens and mask [B, L] -> token vectors [B, L, Ct]."""
        return self.text_encoder(tokens, token_mask, train=train)

    def encode_query(self, query: Batch, train: bool = False) -> jax.Array:
        """The queries of a batch -> unit embeddings f32 [B, D]."""
        if "embedding" in query:
            return query["embedding"]
        return self._query(self._patches(query, train), train)

    def encode_document(
        self, document: Batch, train: bool = False
    ) -> jax.Array:
        """The documents of a batch -> unit embeddings f32 [B, D]."""
        if "embedding" in document:
            return document["embedding"]
        mask = document["token_mask"]
        return self._document(
            self._patches(document, train),
            document["has_image"],
            self._vectors(document, mask, train),
            mask,
            train,
        )[0]

    def _patches(self, part, train):
        if "patches" in part:
            return part["patches"].astype(self.dtype)
        return self.image_encoder(part["image"], train=train)

    def _vectors(self, document, mask, train):
        if self.text_encoder is None:
            return None
        if "token_vectors" in document:
            return document["token_vectors"].astype(self.dtype)
        return self.text_encoder(document["tokens"], mask, train=train)

    def _query(self, patches, train):
        return normalize(self.query_layers(patches.mean(1), train))

    def _document(self, patches, has_image, vectors, token_mask, train):
        has_text = token_mask.any(1)
        if vectors is None:
            rows = patches.shape[0]
            concept = jnp.zeros((rows, self.dim), jnp.float32)
            slots = jnp.zeros((rows, self.slots), jnp.float32)
        else:
            concept, attention = self.concept_memory(vectors, token_mask)
            count = jnp.maximum(token_mask.sum(1, keepdims=True), 1)
            slots = attention.sum(1) / count
        fused = self.fusion(patches, concept, has_image, has_text)
        embeddings = normalize(self.document_layers(fused, train))
        return embeddings, concept, slots
