"""The training step, and the monitors' measurements between steps."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.models.towers import interleave
from mixer_jax.proxies import recall
from mixer_jax.proxies.interface import Head, HeadInput, RowOptimizer
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.training import optimizer as optimizer_lib
from mixer_jax.training import sharding
from mixer_jax.training import state as state_lib
from mixer_jax.training.state import TrainState
from mixer_jax.training.watch import monitors

PyTree = Any
Metrics = dict[str, jax.Array]


def guard_rows(optimizer: RowOptimizer) -> RowOptimizer:
    """Returns an optimizer that skips rows whose gradient is not finite.

    The moments of these rows also stay unchanged. Proxies are updated in place,
    so undoing a whole step would require a copy of all of them.
    """

    def update(gradients, moments, rows, learning_rate, key):
        finite = jnp.all(jnp.isfinite(gradients), axis=-1)
        new = optimizer.update(gradients, moments, rows, learning_rate, key)

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            mask = finite.reshape(-1, *[1] * (old.ndim - 1))
            return jnp.where(mask, new, old)

        return jax.tree.map(keep, new, (rows, moments))

    return RowOptimizer(optimizer.init, update)


def make_train_step(
    config: ConfigDict,
    model: nn.Module,
    head: Head,
    optimizer: optax.GradientTransformation,
    row_optimizer: RowOptimizer,
    rates: dict[str, float],
    state: TrainState,
    mesh: Mesh,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the jitted training step, which donates its input state.

    The loss is the head's mean loss over queries and documents, which count
    equally as samples of their categories. A step whose loss or gradient is not
    finite leaves parameters, statistics and optimizer state unchanged and is
    counted in `state.skipped`, which the next finite step resets to 0. If
    `rates` are all 0, only the proxies are trained.

    Args:
      config: the stage's config.
      model: see `models.towers.Mixer`.
      head: see `proxies.interface`.
      optimizer: the optimizer of the parameters, from
        `optimizer.make_optimizer`.
      row_optimizer: the optimizer of the proxies.
      rates: `{path: learning-rate multiple}` of the parameters.
      state: a state, possibly abstract, whose shapes determine the shardings.
      mesh: the device mesh.

    Returns:
      `(state, batch, seed=config.seed) -> (state, metrics)`. Seeds
      passed as int32 share one compiled program. The metrics are f32 scalars:
      the head's metrics, `loss`, `gradient_norm` (before clipping),
      `learning_rate` and `skipped`.
    """
    schedule = optimizer_lib.make_schedule(
        config.steps, config.optimizer.warmup
    )
    row_optimizer = guard_rows(row_optimizer)
    # A fully frozen model runs in inference mode, without dropout.
    learns = any(rates.values())

    def step(
        state: TrainState, batch: PyTree, seed: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.key(config.seed if seed is None else seed)
        key = jax.random.fold_in(key, state.step)
        dropout_key, head_key = jax.random.split(key)
        trainable, frozen = optimizer_lib.split(state.params, rates)

        def forward(trainable: PyTree) -> tuple[jax.Array, PyTree]:
            params = optimizer_lib.merge(trainable, frozen)
            variables = {
                "params": sharding.gather(params, mesh, config.sharding),
                "batch_stats": state.batch_stats,
            }
            outputs, updated = model.apply(
                variables,
                batch,
                train=learns,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            embeddings = interleave(outputs["query"], outputs["document"])
            return embeddings, updated.get("batch_stats", state.batch_stats)

        # Differentiate with respect to trainable parameters only, so that
        # frozen encoders have no backward pass.
        embeddings, pullback, batch_stats = jax.vjp(
            forward, trainable, has_aux=True
        )
        labels = interleave(batch["query"]["label"], batch["document"]["label"])
        margins = None
        if "margin" in batch["query"]:
            margins = interleave(
                batch["query"]["margin"], batch["document"]["margin"]
            )
        rate = schedule(state.step)
        out = head.step(
            row_optimizer,
            HeadInput(
                proxies=state.proxies,
                embeddings=embeddings,
                labels=labels,
                key=head_key,
                graph=state.graph,
                moments=state.proxy_state,
                learning_rate=config.proxies.learning_rate * rate,
                margins=margins,
            ),
        )
        (gradient,) = pullback(out.d_embeddings.astype(embeddings.dtype))
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(out.loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, trainable
        )
        learning_rate = config.optimizer.learning_rate * rate
        moved = jax.tree.map(
            lambda p, u: p - learning_rate * u, trainable, updates
        )

        # Use a smaller decay early on, so that the average moves away from its
        # initial value.
        decay = jnp.minimum(
            config.optimizer.average, (1.0 + state.step) / (10.0 + state.step)
        )
        average = jax.tree.map(
            lambda a, p: decay * a + (1 - decay) * p,
            state.average,
            moved if state.average else {},
        )

        guard = functools.partial(optax.tree.where, finite)
        skipped = jnp.where(finite, 0, state.skipped + 1)
        new_state = TrainState(
            step=state.step + 1,
            skipped=skipped,
            params=optimizer_lib.merge(guard(moved, trainable), frozen),
            batch_stats=guard(batch_stats, state.batch_stats),
            opt_state=guard(opt_state, state.opt_state),
            proxies=out.proxies,
            proxy_state=out.moments,
            graph=state.graph,
            average=guard(average, state.average),
        )
        metrics = out.metrics | {
            "loss": out.loss,
            "gradient_norm": norm,
            "learning_rate": learning_rate,
            "skipped": skipped.astype(jnp.float32),
        }
        return new_state, metrics

    out_shardings = (
        state_lib.shardings(state, mesh, config.sharding),
        mesh_lib.replicated(mesh),
    )
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def make_observe(
    config: ConfigDict,
    model: nn.Module,
    head: Head,
    num_categories: int,
    mesh: Mesh,
) -> Callable[[TrainState, PyTree], Metrics]:
    """Returns the jitted `(state, batch) -> figures` for the monitors.

    The batch is the next training batch; it is evaluated with running
    statistics and without dropout. `active_recall` is measured only for heads
    with a class graph.
    """

    def observe(state: TrainState, batch: PyTree) -> Metrics:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        sample_key, head_key = jax.random.split(key)
        outputs = model.apply(state.variables, batch, train=False)
        figures = monitors.proxy_figures(
            state.proxies, sample_key, num_categories, config.head.subcenters
        )
        if config.model.fusion != "image_only" and "concept" in outputs:
            has_text = jnp.any(batch["document"]["token_mask"], axis=1)
            figures |= monitors.concept_figures(
                outputs["concept"], outputs["slots"], has_text
            )
        if state.graph is not None:
            embeddings = interleave(outputs["query"], outputs["document"])
            labels = interleave(
                batch["query"]["label"], batch["document"]["label"]
            )
            active = head.select(
                HeadInput(
                    state.proxies, embeddings, labels, head_key, state.graph
                )
            )
            figures["active_recall"] = recall.active_recall(
                active,
                state.proxies,
                embeddings,
                labels,
                num_categories,
                mesh,
            )
        return figures

    return jax.jit(observe, out_shardings=mesh_lib.replicated(mesh))
