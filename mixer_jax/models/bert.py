"""BERT (Devlin et al., arXiv 1810.04805): post-norm, exact GELU."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of one member of the family."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    vocabulary: int = 30522
    positions: int = 512  # longest text, in tokens
    types: int = 2  # only the first is used


CONFIGS = {
    "bert-base": BertConfig(),
    "minilm": BertConfig(width=384, layers=6, hidden=1536),
}


class _Layer(nn.Module):
    config: BertConfig
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxLxC, bias_Bx1x1xL, train):
        config = self.config
        batch, length, width = x_BxLxC.shape

        def dense(features, name):
            return nn.Dense(
                features,
                dtype=self.dtype,
                kernel_init=nn.initializers.normal(0.02),
                name=name,
            )

        def norm(name):
            return nn.LayerNorm(epsilon=1e-12, dtype=self.dtype, name=name)

        def dropout(x):
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        def heads(name):
            x = dense(width, name)(x_BxLxC)
            return x.reshape(batch, length, config.heads, -1)

        query, key, value = (heads(n) for n in ("query", "key", "value"))
        logits_BxHxLxL = jnp.einsum("blhd,bmhd->bhlm", query, key)
        logits_BxHxLxL *= (width // config.heads) ** -0.5
        weights = nn.softmax(logits_BxHxLxL.astype(jnp.float32) + bias_Bx1x1xL)
        weights = dropout(weights.astype(self.dtype))
        x = jnp.einsum("bhlm,bmhd->blhd", weights, value)
        x = dense(width, "output")(x.reshape(batch, length, width))
        x = norm("norm1")(x_BxLxC + dropout(x))
        y = nn.gelu(dense(config.hidden, "expand")(x), approximate=False)
        return norm("norm2")(x + dropout(dense(width, "project")(y)))


class Bert(nn.Module):
    """Tokens to contextual token vectors.

    Attributes:
      config: the member's sizes.
      dropout: of the weights and of every sublayer's output.
      dtype: of the computation; parameters, softmax and norms' statistics are
        float32.
    """

    config: BertConfig
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens_BxL: jax.Array,
        mask_BxL: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        """Encodes texts.

        Args:
          tokens_BxL: int32 [B, L], L at most `config.positions`.
          mask_BxL: bool [B, L], False on padding; padding never influences
            the other tokens. A row without any token is finite but means
            nothing.
          train: turns dropout on (needs the "dropout" stream).

        Returns:
          [B, L, width].
        """
        config = self.config

        def table(name, rows):
            init = nn.initializers.normal(0.02)
            shape = (rows, config.width)
            return self.param(name, init, shape, jnp.float32)

        words = table("word_embedding", config.vocabulary)
        positions = table("position_embedding", config.positions)
        types = table("type_embedding", config.types)
        constant = positions[: tokens_BxL.shape[1]] + types[:1]
        x = words[tokens_BxL] + constant[None]
        x = nn.LayerNorm(
            epsilon=1e-12, dtype=self.dtype, name="embedding_norm"
        )(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        bias = jnp.where(mask_BxL, 0.0, -1e9)[:, None, None]
        for index in range(config.layers):
            x = _Layer(config, self.dropout, self.dtype, name=f"layer{index}")(
                x, bias, train
            )
        return x
