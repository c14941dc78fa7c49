"""Models and their initial variables, built from names and configs."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from mixer_jax.data.stream.text import MINILM
from mixer_jax.models import concept_memory
from mixer_jax.models.encoders.registry import ENCODERS, FAMILIES
from mixer_jax.models.fusion import FUSIONS
from mixer_jax.models.towers import Mixer, align
from mixer_jax.models.weights import originals, pretrained
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean

_BATCH_NORMS = {name: name for name in ("train", "frozen")}
_MEMORY_NORMS = {name: name for name in concept_memory.NORMS}


def choose(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """Returns `table[name]`.

    Raises:
      UserError: if the name is unknown; the message suggests a similar name
        and lists all names.
    """
    if name in table:
        return table[name]
    hint = did_you_mean(name, table) or "."
    raise UserError(
        f"There is no {kind} named {name!r}{hint} Known: {', '.join(table)}."
    )


def resolve(config: ConfigDict) -> None:
    """Sets the encoder names and the tokenizer of a stage config, in place.

    If `pretrained` is a folder or a name on the Hugging Face hub, a
    description of its config.json replaces `name`. The tokenizer of the text
    encoder is used unless `data.tokenizer` is set.

    Raises:
      UserError: if an original cannot be found or is of an unknown family.
    """
    for part, name in _pretrained_parts(config.model).items():
        if originals.is_original(name):
            encoder = config.model[part.removesuffix("_encoder")]
            encoder.name = originals.describe(name, FAMILIES[part])
    text = config.model.text.pretrained
    if not config.data.tokenizer:
        own = originals.is_original(text)
        config.data.tokenizer = text if own else MINILM


def make_encoder(part: str, name: str, **options: Any) -> nn.Module:
    """Returns an encoder.

    Args:
      part: "image_encoder" or "text_encoder".
      name: a key of `ENCODERS[part]`, or a name from `originals.describe`.
      **options: fields of the encoder; fields that it lacks are ignored.

    Raises:
      UserError: if the name is unknown.
    """
    if originals.is_description(name):
        family, sizes = originals.parse(name, FAMILIES[part])
        make = partial(family.module, sizes)
    else:
        make = choose(ENCODERS[part], name, part.replace("_", " "))
    fields = inspect.signature(make).parameters
    return make(**{key: x for key, x in options.items() if key in fields})


def make_model(config: ConfigDict, dtype: jnp.dtype = jnp.float32) -> Mixer:
    """Builds the two towers.

    Args:
      config: `config.model` of a run.
      dtype: dtype of the computation; parameters are float32.

    Returns:
      The module, without a text encoder if the fusion does not use the text.

    Raises:
      UserError: if a name is unknown, or batch statistics would be computed
        per chunk.
    """
    fusion = choose(FUSIONS, config.fusion, "fusion")
    batch_norm = choose(
        _BATCH_NORMS, config.image.batch_norm, "batch_norm mode"
    )
    image_encoder = make_encoder(
        "image_encoder",
        config.image.name,
        batch_norm=batch_norm,
        dropout=config.image.dropout,
        drop_path=config.image.drop_path,
        remat=config.image.remat,
        hypercolumns=config.image.hypercolumns,
        dtype=dtype,
    )
    if config.image.hypercolumns and not getattr(
        image_encoder, "hypercolumns", False
    ):
        raise UserError(
            f"model.image.hypercolumns is not available for the image encoder "
            f"{config.image.name}; set it to False, or use an efficientnet."
        )
    if config.image.chunk and getattr(image_encoder, "batch_norm", "") == (
        "train"
    ):
        raise UserError(
            f"model.image.chunk is {config.image.chunk}, but batch statistics "
            f"of {config.image.name} need the whole batch. Set "
            "model.image.batch_norm=frozen or model.image.chunk=0."
        )
    return Mixer(
        image_encoder=image_encoder,
        text_encoder=make_encoder(
            "text_encoder",
            config.text.name,
            dropout=config.text.dropout,
            remat=config.text.remat,
            dtype=dtype,
        )
        if fusion.uses_text
        else None,
        dim=config.dim,
        hidden=config.hidden,
        dropout=config.dropout,
        fusion_name=config.fusion,
        slots=config.slots,
        memory_norm=choose(_MEMORY_NORMS, config.memory_norm, "memory_norm"),
        drop_image=config.drop_image if fusion.uses_text else 0.0,
        drop_text=config.drop_text if fusion.uses_text else 0.0,
        image_chunk=config.image.chunk,
        dtype=dtype,
    )


def init_variables(model: Mixer, config: ConfigDict, key: jax.Array) -> dict:
    """Returns random initial variables; can be traced by `jax.jit`.

    Args:
      model: the module from `make_model`.
      config: the config of the run; its section `data` determines the image
        size and the text length.
      key: the random key.

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32; both towers start as
      the same map of the image if the fusion allows it (`towers.align`).
      Encoders that `load_pretrained` will fill are zero until then: random
      values would cost 15 seconds of compilation on a CPU, only to be
      replaced.
    """
    size, length = config.data.image_size, config.data.text_length
    images = jnp.zeros((1, size, size, 3), jnp.uint8)
    mask = jnp.ones((1, length), bool)
    batch = {
        "query": {"image": images},
        "document": {
            "image": images,
            "has_image": jnp.ones((1,), bool),
            "tokens": jnp.zeros((1, length), jnp.int32),
            "token_mask": mask,
        },
    }
    variables = model.init(key, batch)
    params = dict(variables["params"])
    for part, name in _pretrained_parts(config.model).items():
        if name and part in params:
            params[part] = jax.tree.map(jnp.zeros_like, params[part])
    if FUSIONS[config.model.fusion].adds_to_image:
        params = align(params)
    return {**variables, "params": params}


def _pretrained_parts(config: ConfigDict) -> dict[str, str]:
    return {
        "image_encoder": config.image.pretrained,
        "text_encoder": config.text.pretrained,
    }


def check_pretrained(config: ConfigDict) -> None:
    """Checks that the pretrained weights named in `config.model` exist.

    Raises:
      UserError: if weights are unknown or missing.
    """
    for name in _pretrained_parts(config).values():
        if originals.is_original(name):
            originals.find(name)
        elif name:
            pretrained.find(name)


def load_pretrained(variables: Mapping[str, Any], config: ConfigDict) -> dict:
    """Returns the variables with the encoders' pretrained weights.

    Args:
      variables: the variables from `init_variables`; not modified.
      config: `config.model`; encoders whose `pretrained` is "" keep their
        values.

    Raises:
      UserError: if weights are unknown or missing, or do not fit the encoder.
    """
    variables = {name: dict(tree) for name, tree in variables.items()}
    for part, name in _pretrained_parts(config).items():
        if not name or part not in variables["params"]:
            continue
        subtree = {
            collection: tree[part]
            for collection, tree in variables.items()
            if part in tree
        }
        if originals.is_original(name):
            loaded = originals.load(name, FAMILIES[part], subtree)
        else:
            loaded = pretrained.load(name, subtree)
        for collection, tree in loaded.items():
            variables[collection][part] = tree
    return variables


def check_frozen(part: str, name: str) -> None:
    """Checks that a package provides weights for an encoder.

    Raises:
      UserError: if no package does.
    """
    known = {key: key for key in ENCODERS[part] if key in pretrained.SOURCES}
    choose(known, name, part.replace("_", " "))


def pretrained_image_encoder(name: str, size: int) -> tuple[nn.Module, dict]:
    """Returns a frozen image encoder and its pretrained variables."""
    images = jnp.zeros((1, size, size, 3), jnp.uint8)
    return _frozen("image_encoder", name, images)


def pretrained_text_encoder(name: str) -> tuple[nn.Module, dict]:
    """Returns a frozen text encoder and its pretrained variables."""
    tokens = jnp.zeros((1, 8), jnp.int32)
    return _frozen("text_encoder", name, tokens, tokens > 0)


def _frozen(part: str, name: str, *inputs) -> tuple[nn.Module, dict]:
    check_frozen(part, name)
    model = make_encoder(part, name, batch_norm="frozen")
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return model, pretrained.load(name, shapes)
