"""BERT (Devlin et al., arXiv 1810.04805): post-norm, exact GELU.

RoBERTa (Liu et al., arXiv 1907.11692) and XLM-RoBERTa (Conneau et al., arXiv
1911.02116) differ only in their sizes and in the index of the first position.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax.models.encoders import layers
from mixer_jax.models.encoders.family import Family, check_fixed, unsupported
from mixer_jax.models.encoders.key_map import KeyMap
from mixer_jax.models.kernels import activations
from mixer_jax.runtime.errors import UserError

# Class names in transformers, keyed by the `model_type` in config.json.
_KINDS = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a model in the BERT family."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    vocabulary: int = 30522
    positions: int = 512  # maximum number of tokens per text
    types: int = 2  # token types; only the first is used
    kind: str = "bert"  # "bert", "roberta" or "xlm-roberta"
    padding: int = 0  # ID of the padding token
    epsilon: float = 1e-12  # epsilon of the layer norms

    @property
    def first_position(self) -> int:
        """Index of the first position; RoBERTa starts after the padding ID."""
        return 0 if self.kind == "bert" else self.padding + 1


CONFIGS = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(width=1024, layers=24, heads=16, hidden=4096),
    "minilm": BertConfig(width=384, layers=6, hidden=1536),
    "roberta-base": BertConfig(
        vocabulary=50265, types=1, kind="roberta", padding=1, epsilon=1e-5
    ),
    "xlm-roberta-base": BertConfig(
        vocabulary=250002, types=1, kind="xlm-roberta", padding=1, epsilon=1e-5
    ),
}

KEYS = KeyMap(
    pairs=(
        (r"(word|position)_embedding", r"embeddings.\1_embeddings.weight"),
        (r"type_embedding", r"embeddings.token_type_embeddings.weight"),
        (r"embedding_norm", r"embeddings.LayerNorm"),
        (
            r"layer(\d+)/(query|key|value)",
            r"encoder.layer.\1.attention.self.\2",
        ),
        (r"layer(\d+)/output", r"encoder.layer.\1.attention.output.dense"),
        (r"layer(\d+)/norm1", r"encoder.layer.\1.attention.output.LayerNorm"),
        (r"layer(\d+)/expand", r"encoder.layer.\1.intermediate.dense"),
        (r"layer(\d+)/project", r"encoder.layer.\1.output.dense"),
        (r"layer(\d+)/norm2", r"encoder.layer.\1.output.LayerNorm"),
    ),
    # Task heads, and the index buffers in old files.
    ignored=r"(pooler|cls|lm_head|classifier|qa_outputs)\..*"
    r"|embeddings\.(position|token_type)_ids",
    prefix="bert.",
)
# For both RoBERTa and XLM-RoBERTa.
ROBERTA_KEYS = dataclasses.replace(KEYS, prefix="roberta.")
# Keys of config.json that support only one value.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
_SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "vocabulary": "vocab_size",
    "types": "type_vocab_size",
    "padding": "pad_token_id",
    "epsilon": "layer_norm_eps",
}


def from_original(config: Mapping[str, Any]) -> BertConfig:
    """Reads the original's config.json.

    Args:
      config: content of its config.json, whose model_type is bert, roberta or
        xlm-roberta.

    Raises:
      UserError: if a value is not supported.
    """
    kind = config.get("model_type", "bert")
    known = tuple(_KINDS)
    if kind not in known:
        raise unsupported(
            "BERT", "model_type", kind, ", ".join(map(repr, known))
        )
    check_fixed("BERT", config, _FIXED)
    # Defaults of the original configs.
    default = BertConfig(kind=kind, padding=0 if kind == "bert" else 1)
    if kind == "roberta":
        default = dataclasses.replace(default, vocabulary=50265)
    given = {ours: config.get(theirs) for ours, theirs in _SIZES.items()}
    sizes = dataclasses.replace(
        default, **{name: x for name, x in given.items() if x is not None}
    )
    if sizes.width % sizes.heads:
        raise UserError(
            f"The BERT config has hidden_size = {sizes.width}; it must be a "
            f"multiple of num_attention_heads = {sizes.heads}."
        )
    rows = config.get("max_position_embeddings", 512)
    return dataclasses.replace(sizes, positions=rows - sizes.first_position)


def to_original(config: BertConfig) -> dict[str, Any]:
    """Returns a config.json with which transformers can load our weights."""
    return {
        "architectures": [_KINDS[config.kind]],
        "model_type": config.kind,
        "hidden_act": "gelu",
        "max_position_embeddings": config.positions + config.first_position,
        **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
    }


class _Layer(nn.Module):
    config: BertConfig
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxLxC, bias_Bx1x1xL, train):
        config = self.config

        def norm(name):
            return nn.LayerNorm(config.epsilon, dtype=self.dtype, name=name)

        def dropout(x):
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        rng = self.make_rng("dropout") if train and self.dropout else None
        x = layers.self_attention(
            x_BxLxC,
            config.heads,
            bias=bias_Bx1x1xL,
            dtype=self.dtype,
            dropout=self.dropout,
            rng=rng,
        )
        x = norm("norm1")(x_BxLxC + dropout(x))
        y = layers.dense(config.hidden, self.dtype, "expand")(x)
        y = activations.gelu(y)
        y = layers.dense(x.shape[-1], self.dtype, "project")(y)
        return norm("norm2")(x + dropout(y))


class Bert(nn.Module):
    """BERT; returns token vectors, the `last_hidden_state` of the original.

    Attributes:
      config: the model's sizes.
      dropout: dropout rate of the embeddings, the attention weights and every
        sublayer's output.
      dtype: dtype of the computation; parameters, softmax and the norms'
        statistics are float32.
      remat: whether the backward pass recomputes each layer to save memory.
    """

    config: BertConfig
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

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
            the other tokens. The result for a row without any token is finite
            but meaningless.
          train: turns dropout on; needs the "dropout" RNG stream.

        Returns:
          [B, L, width].

        Raises:
          UserError: if there are more tokens than positions.
        """
        config = self.config
        if tokens_BxL.shape[1] > config.positions:
            raise UserError(
                f"A text has {tokens_BxL.shape[1]} tokens; the encoder "
                f"supports at most {config.positions}."
            )

        def table(name, rows):
            shape = (rows, config.width)
            return self.param(name, layers.INIT, shape, jnp.float32)

        words = table("word_embedding", config.vocabulary)
        rows = config.positions + config.first_position
        positions = table("position_embedding", rows)
        types = table("type_embedding", config.types)
        places = positions[None, : tokens_BxL.shape[1]]
        if config.kind != "bert":
            # Do not count padding, given by the mask or by its token ID.
            counted = mask_BxL & (tokens_BxL != config.padding)
            places = positions[counted.cumsum(1) * counted + config.padding]
        x = words[tokens_BxL] + types[None, :1] + places
        x = nn.LayerNorm(
            config.epsilon, dtype=self.dtype, name="embedding_norm"
        )(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        bias = jnp.where(mask_BxL, 0.0, -1e9)[:, None, None]
        # Argument 3 is `train`; argument 0 is the layer itself.
        layer = nn.remat(_Layer, static_argnums=3) if self.remat else _Layer
        for index in range(config.layers):
            x = layer(config, self.dropout, self.dtype, name=f"layer{index}")(
                x, bias, train
            )
        return x


FAMILY = Family(Bert, BertConfig, KEYS, from_original, to_original)
ROBERTA_FAMILY = FAMILY._replace(keys=ROBERTA_KEYS)
