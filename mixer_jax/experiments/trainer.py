"""Trains towers on stored features with any of the compared losses.

As in `fusions.train`, the encoders stay frozen, and both towers start whitened.
Class vectors start as the mean embeddings of their categories, whatever the
loss. A trainer compiles its step once: hyper-parameters are its arguments.
"""

import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from ml_collections import ConfigDict

from mixer_jax.data.tables import table
from mixer_jax.experiments.folds import PairSampler
from mixer_jax.experiments.frozen import Features
from mixer_jax.experiments.objectives import Hyper, Objective, Pairs
from mixer_jax.models import factory, whitening
from mixer_jax.models.fusion import FUSIONS
from mixer_jax.models.towers import TransformationLayers
from mixer_jax.retrieval import evaluate
from mixer_jax.runtime.arrays import normalize
from mixer_jax.training import optimizer as optimizer_lib

PyTree = Any
_WARMUP = 0.05  # share of the steps
_CLIP_NORM = 1.0  # of the towers' gradient
_BLOCK = 256  # samples embedded at once


class Fitted(NamedTuple):
    """Trained towers.

    Attributes:
      embed: embeds samples of one role, which need the column `place`.
      loss: the mean loss over the last tenth of the steps.
      step_seconds: mean wall time per step, without the first step, which
        compiles; 0 with a single step.
    """

    embed: evaluate.Embed
    loss: float
    step_seconds: float


class Trainer:
    """Trains one kind of towers with one loss on one training split."""

    def __init__(
        self,
        config: ConfigDict,
        objective: Objective,
        features: Features,
        training: pd.DataFrame,
        *,
        steps: int,
        pairs: int,
    ):
        """Prepares the training; compiles nothing yet.

        Args:
          config: the encoders' config, with the fusion to train.
          objective: the loss.
          features: the features of all samples.
          training: the samples to train on, with `place` and `digest`.
          steps: the number of steps.
          pairs: pairs per batch.
        """
        self._config, self._objective = config, objective
        self._training = training
        self._read = functools.partial(
            features.batch, attends=FUSIONS[config.model.fusion].attends
        )
        self._steps, self._pairs = steps, pairs
        self._ids = table.category_index(training)
        self._labels = table.labels(training, self._ids)
        self._places = training["place"].to_numpy()
        self._sampler = PairSampler(training)
        self._whitening = features.whiten(training, config.model.dim)
        self._model = factory.make_model(config.model)
        self._init = jax.jit(self._init_towers)
        self._apply = jax.jit(self._embed_block, static_argnames="role")
        self._step = jax.jit(
            _make_step(self._model, objective, steps), donate_argnums=0
        )

    def train(self, hyper: Mapping[str, float], seed: int) -> Fitted:
        """Trains with some hyper-parameters.

        Args:
          hyper: a value for each range of the objective and of
            `objectives.SHARED`.
          seed: determines the initial towers and the batches.
        """
        hyper = {name: jnp.float32(value) for name, value in hyper.items()}
        towers = self._init(jax.random.key(seed))
        if self._whitening is not None:
            towers = whitening.apply(towers, self._whitening)
        means = (
            self._class_means(towers) if self._objective.has_classes else None
        )
        state = _start(towers, self._objective.init(means, hyper))
        rng = np.random.default_rng(seed)
        losses, begin = [], 0.0
        pairs = self._sampler.draw(rng, self._steps, self._pairs)
        for number, rows in enumerate(pairs):
            batch = self._batch(*rows)
            state, loss = self._step(state, batch, hyper, np.int32(number))
            losses.append(loss)
            if not number:
                jax.block_until_ready(state)
                begin = time.perf_counter()
        towers = jax.device_get(state[0]["towers"])
        seconds = (time.perf_counter() - begin) / max(self._steps - 1, 1)
        tail = losses[-max(self._steps // 10, 1) :]
        return Fitted(
            lambda frame: self._embed(towers, frame),
            float(np.mean(jax.device_get(tail))),
            seconds if self._steps > 1 else 0.0,
        )

    def _batch(self, queries: np.ndarray, documents: np.ndarray) -> PyTree:
        read, places = self._read, self._places
        label = {"label": self._labels[queries]}
        return {
            "query": read(places[queries], table.QUERY) | label,
            "document": read(places[documents], table.DOCUMENT),
        }

    def _init_towers(self, key: jax.Array) -> PyTree:
        # Under jit, the encoders' forward pass is unused and thus eliminated.
        params = factory.init_variables(self._model, self._config, key)[
            "params"
        ]
        return {
            name: tree
            for name, tree in params.items()
            if name not in optimizer_lib.ENCODERS
        }

    def _class_means(self, towers: PyTree) -> np.ndarray:
        """Returns each category's mean embedding, unit rows f32 [C, D]."""
        sums = np.zeros((len(self._ids), self._config.model.dim), np.float32)
        for role in (table.QUERY, table.DOCUMENT):
            rows = (self._training["role"] == role).to_numpy()
            embeddings = self._embed(towers, self._training[rows])
            np.add.at(sums, self._labels[rows], embeddings)
        return normalize(sums)

    def _embed_block(self, towers: PyTree, batch: PyTree, role: str):
        return self._model.apply(
            {"params": towers}, batch, method=f"encode_{role}"
        )

    def _embed(self, towers: PyTree, frame: pd.DataFrame) -> np.ndarray:
        """Embeds samples of one role, f32 [N, D]."""
        role, blocks = frame["role"].iloc[0], []
        places = frame["place"].to_numpy()
        for start in range(0, len(places), _BLOCK):
            some = places[start : start + _BLOCK]
            padded = np.pad(some, (0, _BLOCK - len(some)), constant_values=-1)
            out = self._apply(towers, self._read(padded, role), role)
            blocks.append(np.asarray(out)[: len(some)])
        return np.concatenate(blocks)


def _optimizers() -> dict[str, optax.GradientTransformation]:
    """Returns Adam for the towers, clipped, and for the loss's parameters."""
    return {
        "towers": optax.chain(
            optax.clip_by_global_norm(_CLIP_NORM), optax.scale_by_adam()
        ),
        "loss": optax.scale_by_adam(),
    }


def _start(towers: PyTree, loss: PyTree) -> tuple[PyTree, PyTree]:
    params = {"towers": towers, "loss": loss}
    moments = {
        name: optimizer.init(params[name])
        for name, optimizer in _optimizers().items()
    }
    return params, moments


def _make_step(model: nn.Module, objective: Objective, steps: int):
    """Returns `(state, batch, hyper, number) -> (state, loss)`."""
    schedule = optimizer_lib.make_schedule(steps, _WARMUP)

    def forward(params: PyTree, batch: PyTree, hyper: Hyper) -> jax.Array:
        embeddings, kept = model.apply(
            {"params": params["towers"]},
            batch,
            train=True,
            # The outputs before normalization.
            capture_intermediates=lambda module, _: isinstance(
                module, TransformationLayers
            ),
            mutable=["intermediates"],
        )
        outputs = [
            kept["intermediates"][f"{role}_layers"]["__call__"][0]
            for role in (table.QUERY, table.DOCUMENT)
        ]
        pairs = Pairs(
            embeddings["query"],
            embeddings["document"],
            batch["query"]["label"],
            jnp.concatenate(outputs),
        )
        return objective.apply(params["loss"], pairs, hyper)

    def step(state: PyTree, batch: PyTree, hyper: Hyper, number: jax.Array):
        params, moments = state
        loss, gradients = jax.value_and_grad(forward)(params, batch, hyper)
        factor = schedule(number)
        rates = {
            "towers": hyper["learning_rate"] * factor,
            "loss": hyper.get("loss_rate", 0.0) * factor,
        }
        decays = {"towers": hyper["weight_decay"], "loss": 0.0}
        moved = {}
        for name, optimizer in _optimizers().items():
            updates, moments[name] = optimizer.update(
                gradients[name], moments[name]
            )
            moved[name] = _move(
                params[name], updates, rates[name], decays[name]
            )
        return (moved, moments), loss

    return step


def _move(params: PyTree, updates: PyTree, rate, decay) -> PyTree:
    """Applies AdamW's update; vectors have no weight decay."""

    def move(p: jax.Array, u: jax.Array) -> jax.Array:
        return p - rate * (u + (decay * p if p.ndim > 1 else 0.0))

    return jax.tree.map(move, params, updates)
