"""The parameters' optimizer: schedule, learning rates per part, and AdamW."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from mixer_jax.runtime.errors import UserError
from mixer_jax.training import patterns

PyTree = Any

TEXT_ENCODER = "text_encoder"
ENCODERS = ("image_encoder", TEXT_ENCODER)
PARTS = (
    *ENCODERS,
    "query_layers",
    "document_layers",
    "concept_memory",
    "fusion",
)
_ENDS = ("norm", "head", "classifier")  # the last layers of an encoder


def make_schedule(
    steps: int, warmup: float
) -> Callable[[jax.Array], jax.Array]:
    """Returns the learning rate schedule: linear warmup, then cosine decay.

    Args:
      steps: the number of steps of the run.
      warmup: the share of steps spent on warmup.

    Returns:
      A function from an int32 step to an f32 factor in [0, 1] of the peak
      rate. The factor is above 0 in the first and in the last step.
    """
    rise = max(1, round(steps * warmup))

    def schedule(step: jax.Array) -> jax.Array:
        step = step.astype(jnp.float32)
        progress = jnp.clip((step - rise) / max(1, steps - rise), 0.0, 1.0)
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.minimum((step + 1.0) / rise, cosine)

    return schedule


def multiples(
    params: PyTree,
    parts: tuple[tuple[str, float], ...],
    layer_decay: float = 1.0,
) -> dict[str, float]:
    """Returns `{path: learning-rate multiple}`; paths are joined with "/".

    The first pattern found in a path sets its multiple; the default is 1. In
    an encoder, it is also multiplied by `layer_decay` once for every layer
    above, so that the lowest and most general layers change least (Clark et
    al., arXiv 2003.10555).

    Raises:
      UserError: if a pattern is not a regular expression, or matches neither a
        path nor the name of a part of other models; or if `layer_decay` is not
        above 0 and at most 1.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(
            f"optimizer.layer_decay is {layer_decay}; it must be above 0 and "
            "at most 1."
        )
    paths = traverse_util.flatten_dict(params, sep="/")
    for pattern, _ in parts:
        patterns.check("optimizer.parts", pattern, paths, PARTS)
    above = {
        (part, name): count
        for part in ENCODERS
        for name, count in _layers_above(params.get(part, {})).items()
    }

    def decay(path: str) -> float:
        return layer_decay ** above.get(tuple(path.split("/")[:2]), 0)

    return {
        path: float(patterns.find(parts, path, 1.0)) * decay(path)
        for path in paths
    }


def _layers_above(names: Iterable[str]) -> dict[str, int]:
    """Returns the number of layers above each layer of an encoder, by name.

    Layers are ordered by the numbers in their names; a layer whose name does
    not end in a number follows the blocks of its stage. Layers without any
    number are at the bottom, except for those in `_ENDS`, which are at the top.
    """

    def numbers(name: str) -> tuple[float, ...]:
        parts = tuple(map(int, re.findall(r"\d+", name)))
        return parts if name[-1].isdigit() else (*parts, math.inf)

    bottom, top = (-math.inf,), (math.inf, math.inf)
    places = {
        name: top
        if name in _ENDS
        else numbers(name)
        if re.search(r"\d", name)
        else bottom
        for name in names
    }
    order = sorted({bottom, top, *places.values()}, reverse=True)
    return {name: order.index(place) for name, place in places.items()}


def split(params: PyTree, rates: dict[str, float]) -> tuple[PyTree, PyTree]:
    """Splits nested parameters into (trainable, frozen), by their rates.

    Only trainable parameters are differentiated and have optimizer state, so a
    frozen encoder needs neither a backward pass nor memory for moments.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    return tuple(
        traverse_util.unflatten_dict(
            {p: x for p, x in flat.items() if (rates[p] > 0) == trainable},
            sep="/",
        )
        for trainable in (True, False)
    )


def merge(trainable: PyTree, frozen: PyTree) -> PyTree:
    """Merges trainable and frozen parameters; the inverse of `split`."""
    flat = traverse_util.flatten_dict(trainable, sep="/")
    flat |= traverse_util.flatten_dict(frozen, sep="/")
    return traverse_util.unflatten_dict(flat, sep="/")


def pick(params: PyTree, like: PyTree) -> PyTree:
    """Returns the parameters whose paths are also in `like`."""
    wanted = traverse_util.flatten_dict(like, sep="/")
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({p: flat[p] for p in wanted}, sep="/")


def make_optimizer(
    config: ConfigDict, rates: dict[str, float]
) -> optax.GradientTransformation:
    """Returns AdamW for the trainable parameters, clipped by global norm.

    Updates are scaled by each parameter's multiple, but not by the learning
    rate: the training step multiplies them by the scheduled rate and subtracts
    them, so that the schedule depends on the state's step counter alone.
    Vectors (biases, norms) have no weight decay.

    Args:
      config: `config.optimizer`.
      rates: from `multiples`.

    References:
      Loshchilov, Hutter, arXiv 1711.05101 (AdamW).
    """

    def scale_parts(updates: PyTree, params: PyTree = None) -> PyTree:
        del params
        return traverse_util.path_aware_map(
            lambda path, u: u * rates["/".join(path)], updates
        )

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(),
        optax.add_decayed_weights(
            config.weight_decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
        optax.stateless(scale_parts),
    )
