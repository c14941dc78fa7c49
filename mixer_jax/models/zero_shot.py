"""Zero-shot models: published encoders as two towers, without training."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from mixer_jax.models import factory
from mixer_jax.models.encoders.key_map import KeyMap
from mixer_jax.models.towers import normalize
from mixer_jax.models.weights import originals

Batch = dict[str, Any]

# Values of `config.model.fusion` that select a zero-shot model.
NAMES = MEAN_PATCHES, CLIP = ("mean_patches", "clip")

_CLIP_KEYS = KeyMap(
    pairs=(
        (r"post_norm", r"vision_model.post_layernorm"),
        (r"image_projection", r"visual_projection"),
        (r"text_projection", r"text_projection"),
    ),
    ignored=r".*",  # the tensors of the towers
)


def make_model(config: ConfigDict) -> nn.Module | None:
    """Returns the module for `config.model`, or None if it is not zero-shot.

    Raises:
      UserError: if an encoder is unknown.
    """
    if config.fusion not in NAMES:
        return None
    image = factory.make_encoder(
        "image_encoder", config.image.name, batch_norm="frozen"
    )
    if config.fusion == MEAN_PATCHES:
        return MeanPatches(image)
    text = factory.make_encoder("text_encoder", config.text.name)
    return Clip(image, text, config.dim, image.config.epsilon)


def load_variables(
    model: nn.Module, config: ConfigDict, size: int, length: int
) -> dict[str, Any]:
    """Returns the published weights for a model from `make_model`.

    Args:
      model: the module.
      config: `config.model`; its fields `pretrained` name the weights.
      size: S, the side of the images in pixels.
      length: L, the number of tokens per text.

    Raises:
      UserError: if weights are missing or do not fit the model.
    """
    document = {
        "image": jnp.zeros((1, size, size, 3), jnp.uint8),
        "has_image": jnp.ones((1,), bool),
        "tokens": jnp.zeros((1, length), jnp.int32),
        "token_mask": jnp.ones((1, length), bool),
    }
    shapes = jax.eval_shape(
        lambda key: model.init(key, document, method="encode_document"),
        jax.random.key(0),
    )
    if config.fusion == CLIP:
        folder = originals.find(config.image.pretrained)
        own = {
            name: tree
            for name, tree in shapes["params"].items()
            if not name.endswith("encoder")
        }
        loaded = _CLIP_KEYS.load(
            originals.read(folder), {"params": own}, repr(str(folder))
        )
        shapes = {
            **shapes,
            "params": {**shapes["params"], **loaded["params"]},
        }
    return factory.load_pretrained(shapes, config)


class MeanPatches(nn.Module):
    """Embeds an image as the mean of its patches and ignores the text.

    Queries and documents with the same image get the same embedding.

    Attributes:
      image_encoder: images [B, H, W, 3] -> [B, P, D].
      text_encoder: None.
    """

    image_encoder: nn.Module
    text_encoder: None = None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Embeds images [B, H, W, 3] as unit vectors, f32 [B, D]."""
        patches_BxPxD = self.image_encoder(images)
        return normalize(patches_BxPxD.astype(jnp.float32).mean(1))

    def encode_query(self, query: Batch) -> jax.Array:
        """Embeds the queries of a batch as unit vectors, f32 [B, D]."""
        return self(query["image"])

    def encode_document(self, document: Batch) -> jax.Array:
        """Embeds documents as unit vectors, f32 [B, D]; 0 without an image."""
        return jnp.where(
            document["has_image"][:, None], self(document["image"]), 0
        )


class Clip(nn.Module):
    """CLIP with its pooling and its projections into the common space.

    The embedding of a document with an image and a text is the normalized sum
    of the embeddings of both.

    References: Radford et al., arXiv 2103.00020, section 2.4.

    Attributes:
      image_encoder: images [B, H, W, 3] -> [B, 1 + P, Ci], CLS first.
      text_encoder: tokens and mask [B, L] -> [B, L, Ct], causal.
      dim: D, the output size of the projections.
      epsilon: epsilon of the layer norm of the CLS vector.
    """

    image_encoder: nn.Module
    text_encoder: nn.Module
    dim: int
    epsilon: float = 1e-5

    def setup(self):
        """Creates the submodules; `_CLIP_KEYS` refers to their names."""
        self.post_norm = nn.LayerNorm(epsilon=self.epsilon)
        self.image_projection = nn.Dense(self.dim, use_bias=False)
        self.text_projection = nn.Dense(self.dim, use_bias=False)

    def __call__(self, document: Batch) -> jax.Array:
        """Embeds the documents of a batch as unit vectors, f32 [B, D]."""
        return self.encode_document(document)

    def encode_images(self, images: jax.Array) -> jax.Array:
        """Embeds images [B, H, W, 3] as unit vectors, f32 [B, D]."""
        cls_BxC = self.image_encoder(images)[:, 0].astype(jnp.float32)
        return normalize(self.image_projection(self.post_norm(cls_BxC)))

    def encode_texts(
        self, tokens: jax.Array, token_mask: jax.Array
    ) -> jax.Array:
        """Embeds tokens and mask [B, L] as unit vectors, f32 [B, D].

        Projects the vector of the last token, which attends to all others.
        """
        vectors_BxLxC = self.text_encoder(tokens, token_mask)
        last = jnp.maximum(token_mask.sum(1) - 1, 0)
        end_BxC = jnp.take_along_axis(vectors_BxLxC, last[:, None, None], 1)
        return normalize(
            self.text_projection(end_BxC[:, 0].astype(jnp.float32))
        )

    def encode_query(self, query: Batch) -> jax.Array:
        """Embeds the queries of a batch as unit vectors, f32 [B, D]."""
        return self.encode_images(query["image"])

    def encode_document(self, document: Batch) -> jax.Array:
        """Embeds the documents of a batch as unit vectors, f32 [B, D]."""
        has_image = document["has_image"][:, None]
        has_text = document["token_mask"].any(1, keepdims=True)
        image = self.encode_images(document["image"])
        text = self.encode_texts(document["tokens"], document["token_mask"])
        return normalize(
            jnp.where(has_image, image, 0) + jnp.where(has_text, text, 0)
        )
