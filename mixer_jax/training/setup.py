"""The setup of a stage: model, head, optimizers, data and abstract state."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from mixer_jax.models import factory
from mixer_jax.proxies import heads, row_optimizers
from mixer_jax.proxies.interface import Head, RowOptimizer
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs, origins, sharding
from mixer_jax.training import optimizer as optimizer_lib
from mixer_jax.training import start as start_lib
from mixer_jax.training import state as state_lib
from mixer_jax.training.checkpoint import shapes
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.state import TrainState

PyTree = Any


class Setup(NamedTuple):
    """A stage that is ready to run, before anything is computed.

    Attributes:
      config: the stage's config.
      mesh: the device mesh.
      inputs: the checked data; None if the stage was assembled without data.
      model: see `models.towers.Mixer`.
      head: see `proxies.interface`.
      rates: `{path: learning-rate multiple}`; 0 for frozen parameters.
      optimizer: the optimizer of the parameters.
      row_optimizer: the optimizer of the proxies.
      state: the abstract state, with shapes and shardings.
    """

    config: ConfigDict
    mesh: Mesh
    inputs: inputs.Inputs | None
    model: nn.Module
    head: Head
    rates: dict[str, float]
    optimizer: optax.GradientTransformation
    row_optimizer: RowOptimizer
    state: TrainState


def make(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mesh: Mesh,
    prefix: str = "config",
    *,
    prepare: bool = True,
    say: Callable[[str], None] | None = None,
) -> Setup:
    """Checks config, workdir and data, and returns the setup of a stage.

    Args:
      config: the stage's config.
      workdir: the stage's workdir.
      mesh: the device mesh.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".
      prepare: whether to prepare the samples, as training requires.
      say: see `inputs.load`.

    Raises:
      UserError: if config, workdir or data are wrong, before any computation.
    """
    config_lib.check_values(config, mesh.size, prefix)
    workdir_lib.check_config(workdir, config, prefix)
    origins.check_names(workdir, config)
    start = start_lib.decide(config, workdir)
    if start is start_lib.Start.PRETRAINED:
        factory.check_pretrained(config.model)
    data = inputs.load(config.data, workdir, prepare=prepare, say=say)
    categories = data.samples.category_ids
    workdir_lib.check_categories(workdir, categories, prefix)
    origins.check_data(workdir, data, prefix)
    with config_lib.naming_stage(config, prefix):
        run = assemble(config, len(categories), mesh)
        _check_text(config, "vocabulary", data.tokenizer.vocab_size)
        if start is start_lib.Start.PRETRAINED:
            # Only reading the weights shows whether they match the model.
            factory.load_pretrained(_variables(config, run.model), config.model)
        other = start is start_lib.Start.OTHER_STAGE
        if other and workdir_lib.latest_step(config.init_from) is not None:
            check_fit(config, workdir_lib.read_config(config.init_from))
    if prepare:
        data.prepared.remove_others()
    return run._replace(inputs=data)


def check_fit(config: ConfigDict, before: ConfigDict) -> None:
    """Checks that a stage can start from the parameters of another one.

    Args:
      config: the stage's config.
      before: the config of the stage in `config.init_from`.

    Raises:
      UserError: if parameters or proxies have different shapes.
    """

    def known(one: ConfigDict) -> shapes.Shapes:
        model = factory.make_model(one.model, jnp.dtype(one.precision))
        width = one.head.subcenters * one.model.dim
        return {"proxies": (0, width)} | shapes.flat(_variables(one, model))

    shapes.check(config.init_from, known(before), known(config))


def _variables(config: ConfigDict, model: nn.Module) -> PyTree:
    """Returns the abstract variables of a model."""
    data = {
        "image_size": config.data.image_size,
        "text_length": config.data.text_length,
    }
    needed = FrozenConfigDict({"data": data, "model": config.model})
    traced = _trace(factory.init_variables, model, needed)
    return jax.tree.map(lambda leaf: leaf, traced)  # the caller's own copy


# Tracing a model takes seconds; a curriculum reuses the same shapes.
@functools.lru_cache(maxsize=16)
def _trace(
    init: Callable[..., PyTree], model: nn.Module, config: FrozenConfigDict
) -> PyTree:
    return jax.eval_shape(
        functools.partial(init, model, config), jax.random.key(0)
    )


def assemble(config: ConfigDict, num_categories: int, mesh: Mesh) -> Setup:
    """Returns the setup of a stage without its data.

    Args:
      config: the stage's config, checked by `config.defaults.check_values`.
      num_categories: C, the number of categories.
      mesh: the device mesh; its devices may be abstract.

    Raises:
      UserError: if parts of the config are incompatible.
    """
    model = factory.make_model(config.model, jnp.dtype(config.precision))
    _check_text(config, "positions", config.data.text_length)
    variables = _variables(config, model)
    rates = optimizer_lib.multiples(
        variables["params"],
        config.optimizer.parts,
        config.optimizer.layer_decay,
    )
    sharding.check(config.sharding, rates)
    _check_frozen(config, rates, bool(variables.get("batch_stats")))
    head = heads.make_head(config.head, mesh, num_categories, config.batch_size)
    optimizer = optimizer_lib.make_optimizer(config.optimizer, rates)
    row_optimizer = row_optimizers.make_optimizer(config.proxies)
    proxies = jax.ShapeDtypeStruct(
        (
            mesh_lib.padded_rows(num_categories, mesh),
            config.head.subcenters * config.model.dim,
        ),
        row_optimizers.rows_dtype(config.proxies),
    )
    state = jax.eval_shape(
        functools.partial(
            state_lib.fresh,
            rates,
            optimizer,
            row_optimizer,
            average=config.optimizer.average > 0,
        ),
        variables,
        proxies,
        head.graph_shape,
    )
    return Setup(
        config=config,
        mesh=mesh,
        inputs=None,
        model=model,
        head=head,
        rates=rates,
        optimizer=optimizer,
        row_optimizer=row_optimizer,
        state=state_lib.abstract(state, mesh, config.sharding),
    )


def _check_frozen(
    config: ConfigDict, rates: dict[str, float], has_statistics: bool
) -> None:
    whitens = config.model.init == "whitened" and not config.init_from
    if whitens and not any(rates.values()):
        # The embeddings of a frozen model are stored before the towers start.
        raise UserError(
            "model.init is 'whitened', but optimizer.parts freezes all "
            "parameters; set model.init to 'random'."
        )
    encoder = [m for path, m in rates.items() if path.startswith("image_enc")]
    trains = has_statistics and config.model.image.batch_norm == "train"
    if trains and not any(encoder):
        raise UserError(
            "optimizer.parts freezes the image encoder, but "
            "model.image.batch_norm is 'train', which would still change its "
            "statistics; set it to 'frozen'."
        )
    if config.data.cached_text and config.model.text.dropout:
        raise UserError(
            "data.cached_text stores the text encoder's output for each text "
            f"once, so model.text.dropout cannot be {config.model.text.dropout}"
            "; set it to 0."
        )
    if config.data.cached_text:
        _require_frozen("data.cached_text", rates, optimizer_lib.TEXT_ENCODER)
    if not config.data.cached:
        return
    if config.data.augment != "none":
        raise UserError(
            "data.cached stores the encoders' output for each image once, so "
            f"data.augment cannot be '{config.data.augment}'; set it to "
            "'none'."
        )
    for part in optimizer_lib.ENCODERS:
        _require_frozen("data.cached", rates, part)


def _require_frozen(key: str, rates: dict[str, float], part: str) -> None:
    """Raises a `UserError` if `key` needs `part` frozen but it is trained."""
    for path, multiple in rates.items():
        if path.startswith(f"{part}/") and multiple:
            raise UserError(
                f"{key} needs a frozen {part}, but optimizer.parts trains "
                f"{path}; give {part} a multiple of 0."
            )


def stores_text(run: Setup) -> bool:
    """Returns whether batches have stored token vectors instead of tokens."""
    data, params = run.config.data, run.state.params
    return (data.cached or data.cached_text) and (
        optimizer_lib.TEXT_ENCODER in params
    )


def _check_text(config: ConfigDict, attribute: str, value: int) -> None:
    encoder = factory.make_encoder("text_encoder", config.model.text.name)
    limit = getattr(encoder.config, attribute)
    if value > limit:
        name = {
            "vocabulary": "The tokenizer's vocabulary size",
            "positions": "data.text_length",
        }[attribute]
        raise UserError(
            f"{name} is {value}, but the text encoder "
            f"{config.model.text.name} supports at most {limit}; change "
            "data.tokenizer, data.text_length or model.text.name."
        )


def parameters(params: PyTree) -> dict[str, Any]:
    """Returns the parameters as `{path: array}`, sorted by path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return dict(sorted(flat.items()))
