"""Fusions of a document's image and text into one vector.

Every fusion is a module with the fields `dim` and `dtype`. Its inputs are
patches [B, P, Ci], concept vectors [B, D], which are zero without text, and the
masks has_image and has_text, bool [B]; it returns [B, D]. A missing image or
text is masked out, so that all shapes stay static.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

FUSIONS: dict[str, type["Fusion"]] = {}


def register(name: str):
    """Returns a class decorator that registers a fusion under `name`."""

    def add(fusion: type["Fusion"]) -> type["Fusion"]:
        FUSIONS[name] = fusion
        return fusion

    return add


class Fusion(nn.Module):
    """Base class with the fields and the projection shared by all fusions.

    Attributes:
      dim: D, the size of the result.
      dtype: dtype of the products.
    """

    # Class attributes, not fields: they are the same for all instances.
    uses_text = True  # if False, the model needs no text encoder
    adds_to_image = True  # the result is the projected image plus other terms
    attends = False  # the result depends on more than the patches' mean

    dim: int
    dtype: jnp.dtype = jnp.float32

    def project(self, x: jax.Array, name: str, **options) -> jax.Array:
        """Maps [..., C] to [..., D]; `options` go to Dense."""
        options = {"use_bias": False} | options
        return nn.Dense(self.dim, dtype=self.dtype, name=name, **options)(x)

    def project_image(self, x: jax.Array) -> jax.Array:
        """Maps encodings of the image [..., C] to [..., D]."""
        # `whitening.apply` sets the bias, which centers them.
        return self.project(x, "image", use_bias=True)


@register("concept_attention")
class ConceptAttention(Fusion):
    """Adds attention over the patches, queried by the concept vector.

    w = softmax((W_q c) . (W_k x_p) / sqrt(D)), one weight per patch x_p;
    v = sum_p w_p W_v x_p; result = mean_p(x_p) W_p + v + W_c c.
    Without text, w is uniform. W_v is initialized to zero and W_c to small
    values, so that the image dominates at first: a large random text term
    would let the model memorize the training categories.
    """

    attends = True

    @nn.compact
    def __call__(self, patches_BxPxC, concept_BxD, has_image_B, has_text_B):
        """Returns [B, D]; see the module's docstring."""
        query_BxD = self.project(concept_BxD, "query")
        keys_BxPxD = self.project(patches_BxPxC, "key")
        logits_BxP = jnp.einsum(
            "bd,bpd->bp",
            query_BxD,
            keys_BxPxD,
            preferred_element_type=jnp.float32,
        )
        logits_BxP *= self.dim**-0.5 * has_text_B[:, None]
        weights_BxP = nn.softmax(logits_BxP).astype(self.dtype)
        self.sow("intermediates", "weights", weights_BxP)  # for explanations
        # W_v commutes with the weighted mean: project the mean, not P patches.
        answer_BxC = jnp.einsum("bp,bpc->bc", weights_BxP, patches_BxPxC)
        image_BxD = self.project_image(patches_BxPxC.mean(1))
        image_BxD += self.project(
            answer_BxC, "value", kernel_init=nn.initializers.zeros
        )
        text_BxD = self.project(
            concept_BxD,
            "concept",
            kernel_init=nn.initializers.variance_scaling(
                0.01, "fan_in", "truncated_normal"
            ),
        )
        return image_BxD * has_image_B[:, None] + text_BxD * has_text_B[:, None]


@register("average")
class Average(Fusion):
    """Mean of the image and text vectors that are present.

    The image vector is mean_p(x_p) W_p, and the text vector is W_c c.
    """

    @nn.compact
    def __call__(self, patches_BxPxC, concept_BxD, has_image_B, has_text_B):
        """Returns [B, D]; see the module's docstring."""
        image_BxD = self.project_image(patches_BxPxC.mean(1))
        text_BxD = self.project(concept_BxD, "concept")
        count_B = has_image_B.astype(self.dtype) + has_text_B
        total_BxD = (
            image_BxD * has_image_B[:, None] + text_BxD * has_text_B[:, None]
        )
        return total_BxD / jnp.maximum(count_B, 1)[:, None]


@register("concat")
class Concat(Fusion):
    """MLP on the concatenated image and text vectors; missing ones are 0."""

    adds_to_image = False

    @nn.compact
    def __call__(self, patches_BxPxC, concept_BxD, has_image_B, has_text_B):
        """Returns [B, D]; see the module's docstring."""
        image_BxD = self.project_image(patches_BxPxC.mean(1))
        text_BxD = self.project(concept_BxD, "concept")
        both = jnp.concatenate(
            [
                image_BxD * has_image_B[:, None],
                text_BxD * has_text_B[:, None],
            ],
            -1,
        )
        hidden = nn.Dense(2 * self.dim, dtype=self.dtype, name="hidden")(both)
        return nn.Dense(self.dim, dtype=self.dtype, name="out")(nn.gelu(hidden))


@register("image_only")
class ImageOnly(Fusion):
    """Baseline mean_p(x_p) W_p, which ignores the text."""

    uses_text = False

    @nn.compact
    def __call__(self, patches_BxPxC, concept_BxD, has_image_B, has_text_B):
        """Returns [B, D]; see the module's docstring."""
        del concept_BxD, has_text_B
        image_BxD = self.project_image(patches_BxPxC.mean(1))
        return image_BxD * has_image_B[:, None]


@register("text_only")
class TextOnly(Fusion):
    """Baseline W_c c, which ignores the image."""

    adds_to_image = False

    @nn.compact
    def __call__(self, patches_BxPxC, concept_BxD, has_image_B, has_text_B):
        """Returns [B, D]; see the module's docstring."""
        del patches_BxPxC, has_image_B
        return self.project(concept_BxD, "concept") * has_text_B[:, None]


@register("gated")
class Gated(Fusion):
    """Elementwise mix g * image + (1 - g) * text with a learned gate g.

    g = sigmoid(W_g [image, text] + b_g). A modality that is present alone is
    returned unchanged.

    References:
      Arevalo et al., "Gated Multimodal Units for Information Fusion" (arXiv
      1702.01992).
    """

    @nn.compact
    def __call__(self, patches_BxPxC, concept_BxD, has_image_B, has_text_B):
        """Returns [B, D]; see the module's docstring."""
        image_BxD = self.project_image(patches_BxPxC.mean(1))
        image_BxD *= has_image_B[:, None]
        text_BxD = self.project(concept_BxD, "concept") * has_text_B[:, None]
        both = jnp.concatenate([image_BxD, text_BxD], -1)
        gate_BxD = nn.sigmoid(
            nn.Dense(self.dim, dtype=self.dtype, name="gate")(both)
        )
        gate_BxD = jnp.where(has_image_B[:, None], gate_BxD, 0.0)
        gate_BxD = jnp.where(has_text_B[:, None], gate_BxD, 1.0)
        return gate_BxD * image_BxD + (1 - gate_BxD) * text_BxD


@register("merge")
class Merge(Fusion):
    """Joint self-attention over the patches and the concept vector.

    One pre-norm transformer block over P + 1 tokens, followed by the mean over
    the tokens that are present. The last layers of both branches are
    initialized to zero, so the block starts as the identity.

    References:
      Dou et al., "An Empirical Study of Training End-to-End Vision-and-Language
      Transformers" (arXiv 2111.02387), merged attention, section 3.1.
    """

    attends = True

    @nn.compact
    def __call__(self, patches_BxPxC, concept_BxD, has_image_B, has_text_B):
        """Returns [B, D]; see the module's docstring."""
        image_BxPxD = self.project_image(patches_BxPxC)
        text_BxD = self.project(concept_BxD, "concept")
        tokens_BxTxD = jnp.concatenate([image_BxPxD, text_BxD[:, None]], 1)
        mask_BxT = jnp.concatenate(
            [
                jnp.repeat(has_image_B[:, None], image_BxPxD.shape[1], 1),
                has_text_B[:, None],
            ],
            1,
        )
        tokens_BxTxD += self._attend(tokens_BxTxD, mask_BxT)
        x = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(tokens_BxTxD)
        x = nn.Dense(2 * self.dim, dtype=self.dtype, name="hidden")(x)
        tokens_BxTxD += self.project(
            nn.gelu(x), "out", kernel_init=nn.initializers.zeros
        )
        total_BxD = (tokens_BxTxD * mask_BxT[..., None]).sum(1)
        return total_BxD / jnp.maximum(mask_BxT.sum(1), 1)[:, None]

    def _attend(self, tokens_BxTxD, mask_BxT):
        """Returns what each token reads from the tokens that are present."""
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(tokens_BxTxD)
        return nn.MultiHeadDotProductAttention(
            num_heads=math.gcd(self.dim, 4),
            dtype=self.dtype,
            out_kernel_init=nn.initializers.zeros,
            name="attention",
        )(x, mask=mask_BxT[:, None, None, :])
