"""A stage's training step, compiled from shapes without data."""

from typing import Any

import jax
import jax.numpy as jnp

from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import setup
from mixer_jax.training import step as step_lib
from mixer_jax.training.cache import stored
from mixer_jax.training.optimizer import ENCODERS

PyTree = Any


def make_step(run: setup.Setup) -> Any:
    """Returns the jitted step of a stage; see `step.make_train_step`."""
    return step_lib.make_train_step(
        run.config,
        run.model,
        run.head,
        run.optimizer,
        run.row_optimizer,
        run.rates,
        run.state,
        run.mesh,
    )


def compile_step(run: setup.Setup) -> jax.stages.Compiled:
    """Compiles the step of a stage for the devices of its mesh."""
    return make_step(run).lower(run.state, make_batch(run)).compile()


def make_batch(run: setup.Setup) -> PyTree:
    """Returns the shapes and shardings of a batch of samples or features."""
    config = run.config
    half = config.batch_size // 2
    size, length = config.data.image_size, config.data.text_length

    def leaf(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((half, *shape), dtype)

    image = {"image": leaf(jnp.uint8, size, size, 3)}
    mask = leaf(jnp.bool, length)
    text = {"tokens": leaf(jnp.int32, length)}
    if config.data.cached and not any(run.rates.values()):
        image = {"embedding": leaf(jnp.float32, config.model.dim)}
        text = {}
    elif config.data.cached:
        patches = _encode(run, "encode_images", image["image"])
        image = {"patches": patches}
    if setup.stores_text(run) and text:
        vectors = _encode(run, "encode_texts", text["tokens"], mask)
        text = {"token_vectors": vectors}
    both = {"label": leaf(jnp.int32)}
    if config.head.margin_power:
        both["margin"] = leaf(jnp.float32)
    document = {}
    if "embedding" not in image:
        document = {"has_image": leaf(jnp.bool), "token_mask": mask}
    batch = {
        "query": image | both,
        "document": image | text | document | both,
    }
    rows = mesh_lib.rows(run.mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch
    )


def _encode(
    run: setup.Setup, method: str, *inputs: jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct:
    """Returns the shape of an encoder's output, with the dtype of the cache."""
    encoders = stored.only(run.state.variables, ENCODERS)
    shape = stored.output_shape(run.model, encoders, method, *inputs)
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)
