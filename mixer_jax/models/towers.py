"""The two towers, which embed query images and documents.

The method is that of Mixer (arXiv 2305.03972); the equations are an
interpretation of the paper.
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
    """Scales rows to unit length in float32; zero rows stay zero.

    The gradient is finite for zero rows too.
    """
    x_BxD = x_BxD.astype(jnp.float32)
    square = jnp.square(x_BxD).sum(-1, keepdims=True)
    return x_BxD * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def interleave(queries: jax.Array, documents: jax.Array) -> jax.Array:
    """Interleaves arrays `[Bh, ...]` into `[2 Bh, ...]`: q0, d0, q1, d1, ...

    The rows of both arrays are sharded over the devices. Interleaving leaves
    every row on its device, whereas concatenation would move rows.
    """
    both = jnp.stack([queries, documents], axis=1)
    return both.reshape(-1, *queries.shape[1:])


class TransformationLayers(nn.Module):
    """The layers of one tower: x W + MLP(norm(x)).

    The MLP's last layer is initialized to zero, so the tower starts linear.

    Attributes:
      dim: D, the output size.
      hidden: width of the MLP.
      dropout: dropout rate after the MLP's activation.
      dtype: dtype of the computation.
    """

    dim: int
    hidden: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxC: jax.Array, train: bool = False) -> jax.Array:
        """Maps [B, C] to [B, D]; dropout needs the "dropout" RNG stream."""
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
    """Initializes both towers to the same linear map of the image.

    The map of the query tower is copied to the image projection of the fusion,
    and the map of the document tower becomes the identity. Images with similar
    encodings then have similar embeddings from the first step on; towers with
    different initial maps must first learn a common space, and generalize
    worse even at the end of training.

    Args:
      params: parameters of a `Mixer` whose fusion adds to a projected image.

    Returns:
      The same tree with `fusion/image` and `document_layers/linear` replaced.
    """
    shared = params["query_layers"]["linear"]["kernel"]
    dim = shared.shape[1]
    layers = params["document_layers"] | {
        "linear": {"kernel": jnp.eye(dim, dtype=shared.dtype)}
    }
    image = params["fusion"]["image"] | {"kernel": shared}
    fusion = params["fusion"] | {"image": image}
    return {**params, "document_layers": layers, "fusion": fusion}


def drop_parts(
    has_image: jax.Array,
    token_mask: jax.Array,
    drop_image: float,
    drop_text: float,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Hides the text of some documents and the image of others.

    Each modality must then identify the category on its own. Otherwise, the
    model could ignore the text wherever the image suffices, although real
    documents may lack either modality.

    Args:
      has_image: bool [B].
      token_mask: bool [B, L].
      drop_image: probability of hiding the image of a document that keeps its
        text.
      drop_text: probability of hiding the text of a document with an image.
      key: the random key.

    Returns:
      The new `has_image` and `token_mask`; every document keeps at least one
      of the modalities that it has.
    """
    text_key, image_key = jax.random.split(key)
    shape = has_image.shape
    hidden = has_image & jax.random.bernoulli(text_key, drop_text, shape)
    token_mask = token_mask & ~hidden[:, None]
    hidden = token_mask.any(1) & jax.random.bernoulli(
        image_key, drop_image, shape
    )
    return has_image & ~hidden, token_mask


def in_chunks(
    encoder: nn.Module, images_BxHxWx3: jax.Array, chunk: int, train: bool
) -> jax.Array:
    """Encodes a few images at a time, one chunk after the other.

    The intermediate results of a small chunk stay in a CPU's cache, and those
    of a frozen encoder need no more memory than one chunk's.

    Args:
      encoder: the image encoder; it must encode images independently.
      images_BxHxWx3: the images; their rows may be sharded over the devices.
      chunk: the maximum number of images per chunk, over all devices; 0
        encodes all images at once. Every image stays on its device if the
        chunk is a multiple of the number of devices and divides the batch.
      train: whether this is a training step.

    Returns:
      Patches [B, P, Ci], as from the encoder.
    """
    count = images_BxHxWx3.shape[0]
    chunks = -(-count // chunk) if chunk else 1
    if chunks == 1 or encoder.is_initializing():
        return encoder(images_BxHxWx3, train=train)
    size = -(-count // chunks)
    rest = ((0, 0),) * (images_BxHxWx3.ndim - 1)
    padded = jnp.pad(images_BxHxWx3, ((0, size * chunks - count), *rest))
    # Take every n-th image, so that each chunk has images of every device.
    parts = padded.reshape(size, chunks, *padded.shape[1:])
    encode = nn.scan(
        lambda encoder, _, part: ((), encoder(part, train=train)),
        variable_broadcast=True,
        split_rngs={"params": False, "dropout": True},
        in_axes=1,
        out_axes=1,
    )
    _, patches = encode(encoder, (), parts)
    return patches.reshape(-1, *patches.shape[2:])[:count]


class Mixer(nn.Module):
    """Query and document towers with shared encoders.

    Attributes:
      image_encoder: uint8 or float images [B, H, W, 3] -> [B, P, Ci]; takes
        the argument `train`.
      text_encoder: tokens and mask [B, L] -> [B, L, Ct]; takes the argument
        `train`; None for a fusion that uses no text.
      dim: D, the size of embeddings and concept vectors.
      hidden: width of the transformation layers.
      dropout: dropout rate in the transformation layers.
      fusion_name: a key of `fusion.FUSIONS`.
      slots: S, the number of slots of the concept memory.
      memory_norm: the normalization of the concept memory.
      drop_image: see `drop_parts`; only in training.
      drop_text: see `drop_parts`; only in training.
      image_chunk: see `in_chunks`.
      dtype: dtype of the computation; parameters and embeddings are float32.
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
    image_chunk: int = 0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Creates submodules; config patterns refer to their names."""
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
        """Embeds a training batch; encodes all images together.

        Args:
          batch: a batch of the data pipeline: `query` with `image`
            [Bh, S, S, 3]; `document` with `image`, `has_image` [Bh], `tokens`
            and `token_mask` [Bh, L]. Both `image`s may be replaced by
            `patches` [Bh, P, Ci], and `tokens` by `token_vectors`
            [Bh, L, Ct], the outputs of `encode_images` and `encode_texts`.
            Alternatively, `query` and `document` hold only `embedding`
            [Bh, D], the output of `encode_query` or `encode_document`.
          train: turns on batch statistics (if the encoder uses them), dropout
            and `drop_parts`; dropout and `drop_parts` need the "dropout" RNG
            stream.

        Returns:
          f32 `query` and `document` [Bh, D] of unit length; `concept`
          [Bh, D] and `slots` [Bh, S], the mean attention over the tokens of
          each text. The last two are zero without text, and absent if the
          batch holds `embedding`s.
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
            images = interleave(query["image"], document["image"])
            both = self.encode_images(images, train)
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
        """Encodes images [B, H, W, 3] as patches [B, P, Ci]."""
        return in_chunks(self.image_encoder, images, self.image_chunk, train)

    def encode_texts(
        self, tokens: jax.Array, token_mask: jax.Array, train: bool = False
    ) -> jax.Array:
        """Encodes tokens and mask [B, L] as token vectors [B, L, Ct]."""
        return self.text_encoder(tokens, token_mask, train=train)

    def encode_query(self, query: Batch, train: bool = False) -> jax.Array:
        """Embeds the queries of a batch as unit vectors, f32 [B, D]."""
        if "embedding" in query:
            return query["embedding"]
        return self._query(self._patches(query, train), train)

    def encode_document(
        self, document: Batch, train: bool = False
    ) -> jax.Array:
        """Embeds the documents of a batch as unit vectors, f32 [B, D]."""
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
        return self.encode_images(part["image"], train)

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
