"""Explains document embeddings: where the fusion looks, and at which words.

The weights are the model's own: its modules sow them into the collection
"intermediates".
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from mixer_jax.data.images import squares
from mixer_jax.data.stream.text import Tokenizer
from mixer_jax.runtime import mesh as mesh_lib

NO_PICTURE = "there is no picture"  # a reason; see `Explanation`


class Token(NamedTuple):
    """A token of a text, and its share of the concept vector.

    Attributes:
      token: its name in the vocabulary.
      start: where its part of the text begins, in characters.
      end: where it ends; equal to `start` for a special token.
      share: c_t . c / (c . c) for the concept vector c = sum_t c_t: the shares
        of a text add up to 1; those of tokens that point away from c are
        negative.
    """

    token: str
    start: int
    end: int
    share: float


class Explanation(NamedTuple):
    """The contributions to the embedding of a document.

    Attributes:
      embedding: the embedding, f32 `[D]`.
      attention: the fusion's attention over the cells of the square picture,
        f32 `[rows, columns]`; None if there is none, see `reason`.
      cls: the attention to the vector of the whole picture, which some encoders
        prepend to those of its cells; all weights add up to 1.
      tokens: the tokens of the text; empty if it has none, or if the model has
        no concept memory.
      reason: why there is no attention, as the end of a sentence; or "".
    """

    embedding: np.ndarray
    attention: np.ndarray | None
    cls: float
    tokens: tuple[Token, ...]
    reason: str


class Weights(NamedTuple):
    """The weights of a batch of documents.

    Attributes:
      embedding: the embeddings, f32 `[B, D]`.
      attention: the fusion's attention, f32 `[B, P]`; None if it has none.
      share: the shares of the tokens, f32 `[B, L]`; None without a concept
        memory.
    """

    embedding: jax.Array
    attention: jax.Array | None
    share: jax.Array | None


def weigh(model: nn.Module, variables: Any, document: Any) -> Weights:
    """Embeds a batch of documents, and returns the weights used for it.

    Args:
      model: the towers.
      variables: their variables.
      document: the batch, as for `Mixer.encode_document`.
    """
    embedding_BxD, state = model.apply(
        variables, document, method="encode_document", mutable="intermediates"
    )
    sown = state.get("intermediates", {})
    (attention_BxP,) = sown.get("fusion", {}).get("weights", (None,))
    (terms_BxLxD,) = sown.get("concept_memory", {}).get("terms", (None,))
    if attention_BxP is not None:
        attention_BxP = attention_BxP.astype(jnp.float32)
    share_BxL = None if terms_BxLxD is None else _shares(terms_BxLxD)
    return Weights(embedding_BxD, attention_BxP, share_BxL)


def _shares(terms_BxLxD: jax.Array) -> jax.Array:
    terms_BxLxD = terms_BxLxD.astype(jnp.float32)
    dots_BxL = jnp.einsum("bld,bd->bl", terms_BxLxD, terms_BxLxD.sum(1))
    total_Bx1 = dots_BxL.sum(1, keepdims=True)  # c . c, 0 without text
    return dots_BxL / jnp.where(total_Bx1 > 0, total_Bx1, 1)


class Explainer:
    """Explains single documents; compiles its program for the first one."""

    def __init__(
        self, model: nn.Module, variables: Any, mesh: Mesh, *, config: Any
    ):
        """Takes a model, its variables on the devices of `mesh`, its config."""
        self._config, self._variables, self._mesh = config, variables, mesh
        self._weigh = jax.jit(
            functools.partial(weigh, model),
            out_shardings=mesh_lib.replicated(mesh),
        )

    def __call__(
        self, pixels: np.ndarray | None, text: str, tokenizer: Tokenizer
    ) -> Explanation:
        """Explains a document.

        Args:
          pixels: uint8 `[S, S, 3]`; None for no picture.
          text: the text; "" for none.
          tokenizer: the model's tokenizer.
        """
        tokens, mask = tokenizer([text])
        blank = squares.blank(self._config.data.image_size)
        document = {
            "image": (blank if pixels is None else pixels)[None],
            "has_image": np.array([pixels is not None]),
            "tokens": tokens,
            "token_mask": mask,
        }
        rows = mesh_lib.padded_rows(1, self._mesh)
        batch = mesh_lib.pad_batch(document, rows)
        found = self._weigh(
            self._variables, mesh_lib.put_batch(batch, self._mesh)
        )
        found = jax.tree.map(lambda leaf: leaf[0], jax.device_get(found))
        reason = self._reason(found, document)
        grid, cls = (None, 0.0) if reason else _grid(found.attention)
        shown = _tokens(tokenizer, text, found.share)
        return Explanation(found.embedding, grid, cls, shown, reason)

    def _reason(self, found: Weights, document: dict[str, np.ndarray]) -> str:
        if found.attention is None:
            fusion = self._config.model.fusion
            return f"the model's fusion, {fusion!r}, computes no attention"
        if not document["has_image"].all():
            return NO_PICTURE
        if not document["token_mask"].any():
            return "there is no text, so all parts of the picture weigh equally"
        return ""


def _grid(attention_P: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the attention as a square, and that of the CLS vector, or 0."""
    side = math.isqrt(len(attention_P))
    # An encoder's CLS vector comes before its P = side * side patches.
    cls = attention_P[: len(attention_P) - side * side]
    return attention_P[len(cls) :].reshape(side, side), float(cls.sum())


def _tokens(
    tokenizer: Tokenizer, text: str, share_L: np.ndarray | None
) -> tuple[Token, ...]:
    if share_L is None:
        return ()
    pieces = tokenizer.pieces(text)
    return tuple(
        Token(*piece, float(share))
        for piece, share in zip(pieces, share_L, strict=False)
    )
