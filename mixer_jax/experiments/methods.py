"""Runs one method on one fold, with given hyper-parameters and seed."""

import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mixer_jax.data.tables import table
from mixer_jax.experiments import (
    baselines,
    fusions,
    objectives,
    ranking,
    suites,
)
from mixer_jax.experiments.folds import TRAIN, Fold, PairSampler
from mixer_jax.experiments.frozen import Features
from mixer_jax.experiments.objectives import OBJECTIVES, Range
from mixer_jax.experiments.suites import Method
from mixer_jax.experiments.trainer import Trainer
from mixer_jax.runtime.mesh import padded_rows
from mixer_jax.training.checkpoint.checkpoints import Trained

# Increase it whenever a change of the code changes results.
VERSION = 2
_LINEAR = {
    "learning_rate": Range(1e-4, 1e-2, 1e-3),
    "weight_decay": Range(1e-4, 1.0, 1e-2),
    "temperature": Range(0.02, 0.2, 0.05),
}
# A batch's positives must fit into the smallest active set that is compared.
_SMALLEST_SHARE = 0.1


class Budget(NamedTuple):
    """The trials, runs and steps of each method.

    Attributes:
      trials: the number of validation trials per method with a search space.
      seeds: the number of final runs per method.
      steps: training steps per run.
      pairs: pairs of a query and a document per batch.
    """

    trials: int
    seeds: int
    steps: int
    pairs: int


class Result(NamedTuple):
    """A trained method.

    Attributes:
      embed: see `ranking.Embed`.
      figures: further figures for the row.
    """

    embed: ranking.Embed
    figures: dict[str, Any]


class Setting(NamedTuple):
    """One fold with its features."""

    fold: Fold
    encoders: Trained
    features: Features
    budget: Budget
    mesh: Mesh


def space(method: Method) -> dict[str, Range]:
    """Returns the search space of a method; {} if it has no trials."""
    if method.kind == suites.TOWERS:
        return {**objectives.SHARED, **OBJECTIVES[method.loss].space}
    return _LINEAR if method.kind == suites.LINEAR else {}


def seeds(method: Method, budget: Budget) -> range:
    """Returns the seeds of the final runs; one if nothing is random.

    Trials have seed 0.
    """
    return range(1, 2 if method.kind in suites.CLOSED else budget.seeds + 1)


class Runner:
    """Runs a method on a fold, as often as needed; compiles once."""

    def __init__(self, method: Method, setting: Setting):
        """Stores the arguments; nothing is computed yet."""
        self._method, self._setting = method, setting

    def run(self, hyper: Mapping[str, float], seed: int) -> Result:
        """Returns the method, trained on the split `train`."""
        run = {
            suites.TOWERS: self._towers,
            suites.ZERO_SHOT: self._zero_shot,
            suites.FROZEN: self._frozen,
            suites.WHITENED: self._whitened,
            suites.LINEAR: self._linear,
            suites.HEAD: self._head,
        }[self._method.kind]
        begin, busy = time.perf_counter(), time.process_time()
        result = run(hyper, seed)
        times = {
            "train_seconds": round(time.perf_counter() - begin, 3),
            # Summed over all threads; depends less on the load than wall time.
            "train_cpu_seconds": round(time.process_time() - busy, 3),
        }
        return result._replace(figures=result.figures | times)

    @functools.cached_property
    def _training(self) -> pd.DataFrame:
        frame, left_out = self._setting.fold.split(TRAIN), self._method.without
        return frame[frame["split"] != f"{TRAIN}/{left_out}"]

    @functools.cached_property
    def _trainer(self) -> Trainer:
        config = self._setting.encoders.config.copy_and_resolve_references()
        config.model.fusion = self._method.fusion
        budget = self._setting.budget
        return Trainer(
            config,
            OBJECTIVES[self._method.loss],
            self._setting.features,
            self._training,
            steps=budget.steps,
            pairs=budget.pairs,
        )

    def _towers(self, hyper: Mapping[str, float], seed: int) -> Result:
        fitted = self._trainer.train(hyper, seed)
        step_ms = round(1000 * fitted.step_seconds, 3)
        return Result(fitted.embed, {"loss": fitted.loss, "step_ms": step_ms})

    def _zero_shot(self, hyper: Mapping[str, float], seed: int) -> Result:
        del hyper, seed
        size = self._setting.encoders.config.data.image_size

        def embed(frame: pd.DataFrame) -> np.ndarray:
            known = baselines.encode_images(frame["path"], size)
            return baselines.look_up(known, frame["path"])

        return Result(embed, {})

    def _whitened(self, hyper: Mapping[str, float], seed: int) -> Result:
        del hyper, seed
        features, config = self._setting.features, self._setting.encoders.config
        found = features.whiten(self._training, config.model.dim)
        if found is None:
            return Result(features.images, {})
        return Result(lambda frame: features.whitened(frame, found), {})

    def _frozen(self, hyper: Mapping[str, float], seed: int) -> Result:
        del hyper, seed
        return Result(self._setting.features.images, {})

    def _linear(self, hyper: Mapping[str, float], seed: int) -> Result:
        features, training = self._setting.features, self._training
        budget = self._setting.budget
        rng = np.random.default_rng(seed)
        sampler = PairSampler(training)
        size = len(sampler)
        (pairs,) = sampler.draw(rng, 1, size)
        queries, documents = (training.iloc[rows] for rows in pairs)
        settings = baselines.LinearMap(
            steps=budget.steps,
            batch_size=min(budget.pairs, size),
            seed=seed,
            **hyper,
        )
        towers = baselines.train_linear_map(
            features.images(queries),
            features.documents(documents),
            np.unique(queries["category_id"], return_inverse=True)[1],
            settings,
        )

        def embed(frame: pd.DataFrame) -> np.ndarray:
            role = frame["role"].iloc[0]
            pool = features.images
            if role == table.DOCUMENT:
                pool = features.documents
            return np.asarray(baselines.apply_map(towers[role], pool(frame)))

        return Result(embed, {})

    def _head(self, hyper: Mapping[str, float], seed: int) -> Result:
        del hyper  # The comparison of heads has fixed hyper-parameters.
        setting, training = self._setting, self._training
        config = setting.encoders.config.copy_and_resolve_references()
        categories = training["category_id"].nunique()
        batch = min(2 * setting.budget.pairs, int(_SMALLEST_SHARE * categories))
        config.batch_size = padded_rows(max(batch // 2, 1), setting.mesh) * 2
        config.steps = setting.budget.steps
        config.model.fusion = self._method.fusion
        config.optimizer.parts = ()
        config.optimizer.weight_decay = 1.0
        config.head.scale, config.head.margin_size = 16.0, 0.2
        config.head.refresh = 100
        config.proxies.learning_rate = 1.0
        config.head.update(dict(self._method.head))
        smallest = min(config.batch_size / categories, 1.0)
        config.head.active = max(config.head.active, smallest)
        (fitted,) = fusions.train(
            config,
            setting.features.store,
            training,
            np.random.default_rng(seed),
            setting.mesh,
            [seed],
            whitened=True,
        )
        return Result(
            fitted.embed,
            {
                "step_ms": round(1000 * fitted.step_seconds, 3),
                "active": config.head.active,
                "neighbors": config.head.neighbors,
                "batch_size": config.batch_size,
            },
        )
