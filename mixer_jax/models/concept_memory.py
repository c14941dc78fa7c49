"""Concept vectors of texts, read from a small learned memory.

External attention (Guo et al., arXiv 2105.02358) over the text's tokens.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

NORMS = ("double", "slots")


class ConceptMemory(nn.Module):
    """Maps the token vectors of each text to one concept vector.

    With tokens t [L, Ct], memories M_k [Ct, S] and M_v [S, D]:
    a = norm(t M_k), concept = mean over real tokens of a M_v + t W_t. The
    second term bypasses the memory, like the residual connections around
    external attention; without it, learning to separate texts is slow.

    Attributes:
      slots: S, the number of memory slots.
      dim: D, the size of a concept vector.
      norm: "double" is softmax over tokens, then L1 over slots; "slots" is
        softmax over slots.
      dtype: dtype of the products; the normalization is float32.
    """

    slots: int
    dim: int
    norm: str = "double"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens_BxLxC: jax.Array, mask_BxL: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Reads the memory.

        Args:
          tokens_BxLxC: token vectors [B, L, Ct].
          mask_BxL: bool, False on padding.

        Returns:
          Concept vectors f32 [B, D], zero for texts without tokens, and the
          attention f32 [B, L, S], whose rows sum to 1, or to 0 on padding.
        """
        logits_BxLxS = nn.Dense(
            self.slots,
            use_bias=False,
            dtype=self.dtype,
            # Start with large logits: near-uniform attention reads nearly
            # the same concept for every text, and diversifies slowly.
            kernel_init=nn.initializers.variance_scaling(
                16.0, "fan_in", "normal"
            ),
            name="keys",
        )(tokens_BxLxC).astype(jnp.float32)
        mask_BxLx1 = mask_BxL[..., None]
        if self.norm == "double":
            # A finite bias avoids NaNs for fully masked texts.
            logits_BxLxS = jnp.where(mask_BxLx1, logits_BxLxS, -1e9)
            attention = nn.softmax(logits_BxLxS, axis=1) * mask_BxLx1
            total = attention.sum(-1, keepdims=True)
            attention /= jnp.where(mask_BxLx1, total, 1.0)
        else:
            attention = nn.softmax(logits_BxLxS, axis=2) * mask_BxLx1
        count_Bx1 = jnp.maximum(mask_BxL.sum(1, keepdims=True), 1)
        # The mean over tokens commutes with both linear maps; computing the
        # mean first is cheaper.
        read_BxS = attention.sum(1) / count_Bx1
        concept_BxD = nn.Dense(
            self.dim,
            use_bias=False,
            dtype=self.dtype,
            # Reads are weighted means of M_v's rows and have the same scale.
            kernel_init=nn.initializers.normal(1.0),
            name="values",
        )(read_BxS)
        mean_BxC = (tokens_BxLxC * mask_BxLx1).sum(1) / count_Bx1
        concept_BxD += nn.Dense(
            self.dim, use_bias=False, dtype=self.dtype, name="tokens"
        )(mean_BxC)
        return concept_BxD.astype(jnp.float32), attention
