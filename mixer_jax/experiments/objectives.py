"""The compared losses: what each one learns, and its hyper-parameters.

Every loss sees the same batches of pairs. Two more hyper-parameters, those of
`SHARED`, belong to the towers.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.experiments import losses
from mixer_jax.experiments.baselines import symmetric_infonce

MAX_SCALE = 100.0  # upper limit of learned inverse temperatures, as in CLIP


class Pairs(NamedTuple):
    """The towers' outputs for a batch of B pairs.

    Attributes:
      query: unit rows, f32 [B, D].
      document: unit rows, f32 [B, D]; row i belongs to query i.
      label: the categories of the pairs, int32 [B].
      outputs: both towers' outputs before normalization, f32 [2 B, D],
        queries first.
    """

    query: jax.Array
    document: jax.Array
    label: jax.Array
    outputs: jax.Array

    @property
    def both(self) -> jax.Array:
        """All embeddings, f32 [2 B, D], queries first."""
        return jnp.concatenate([self.query, self.document])

    @property
    def labels(self) -> jax.Array:
        """The categories of all embeddings, int32 [2 B]."""
        return jnp.tile(self.label, 2)


class Range(NamedTuple):
    """The values of one hyper-parameter that a search draws from.

    Attributes:
      low: the smallest value.
      high: the largest value.
      default: the value of the loss's authors or of this project, which the
        first trial uses.
      log: whether to draw uniformly on a logarithmic scale.
    """

    low: float
    high: float
    default: float
    log: bool = True

    def at(self, share: float) -> float:
        """Returns the value at a share of the range, with four digits."""
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        return float(f"{value:.4g}")


Hyper = Mapping[str, jax.typing.ArrayLike]
Params = dict[str, jax.Array]


class Objective(NamedTuple):
    """A loss, the parameters that it learns, and its search space.

    Attributes:
      apply: `(params, pairs, hyper) -> f32 []`.
      init: `(class means, hyper) -> params`; the class means are the mean
        embeddings of each category by the initial towers, as unit rows f32
        [C, D], or None.
      space: `{hyper-parameter: range}`; `loss_rate` is the learning rate of
        the loss's own parameters.
      has_classes: whether `init` needs the class means.
    """

    apply: Callable[[Any, Pairs, Hyper], jax.Array]
    init: Callable[[np.ndarray | None, Hyper], Params]
    space: Mapping[str, Range]
    has_classes: bool = False


def draw(
    space: Mapping[str, Range], trial: int, trials: int
) -> dict[str, float]:
    """Returns the hyper-parameters of a trial: the defaults for the first.

    The others are a Latin hypercube sample: of n values of a hyper-parameter,
    one lies in each nth of its range, in a random order. A value depends on the
    name of the hyper-parameter, not on the method. So a trial has the same
    learning rate for all losses, and none is better off by luck.

    Args:
      space: the hyper-parameters.
      trial: the number of the trial, from 0.
      trials: the number of trials.

    References:
      McKay et al., "A Comparison of Three Methods for Selecting Values of Input
      Variables", Technometrics 21(2), 1979.
    """
    if not trial:
        return {name: one.default for name, one in space.items()}
    drawn = {}
    for name, one in space.items():
        rng = np.random.default_rng([trials, *name.encode()])
        places = rng.permutation(trials - 1) + rng.random(trials - 1)
        drawn[name] = one.at(places[trial - 1] / (trials - 1))
    return drawn


def _scale(params: Params) -> jax.Array:
    return jnp.minimum(jnp.exp(params["log_scale"]), MAX_SCALE)


def _proxies(means: np.ndarray, hyper: Hyper) -> Params:
    del hyper
    return {"proxies": jnp.asarray(means)}


def _temperature(means: None, hyper: Hyper) -> Params:
    del means
    return {"log_scale": -jnp.log(jnp.float32(hyper["temperature"]))}


SHARED = {
    # Low, because towers start whitened.
    "learning_rate": Range(3e-5, 3e-3, 3e-4),
    "weight_decay": Range(1e-4, 1.0, 1e-2),
}
_CLASS_RATE = Range(1e-3, 1e-1, 1e-2)
OBJECTIVES = {
    # CosFace proxies (arXiv 1801.09414)
    "cosface": Objective(
        lambda p, b, h: losses.cosface(
            b.both, b.labels, p["proxies"], h["scale"], h["margin"]
        ),
        _proxies,
        {
            "scale": Range(2.0, 64.0, 16.0),
            "margin": Range(0.0, 0.4, 0.2, log=False),
            "loss_rate": _CLASS_RATE,
        },
        has_classes=True,
    ),
    # Batch-hard triplets (arXiv 1703.07737)
    "triplet": Objective(
        lambda p, b, h: losses.batch_hard_triplet(
            b.query, b.document, b.label, h["margin"]
        ),
        lambda means, hyper: {},
        {"margin": Range(0.05, 1.0, 0.2)},
    ),
    # InfoNCE, two towers (arXiv 2103.00020)
    "infonce": Objective(
        lambda p, b, h: symmetric_infonce(
            b.query, b.document, b.label, 1.0 / _scale(p)
        ),
        _temperature,
        {
            "temperature": Range(0.02, 0.2, 0.07),
            "loss_rate": Range(1e-4, 1e-2, 1e-3),
        },
    ),
    # SigLIP (arXiv 2303.15343)
    "siglip": Objective(
        lambda p, b, h: losses.sigmoid_pairs(
            b.query, b.document, b.label, _scale(p), p["bias"]
        ),
        lambda means, hyper: (
            _temperature(means, hyper) | {"bias": jnp.float32(-10.0)}
        ),
        {
            "temperature": Range(0.02, 0.2, 0.1),
            "loss_rate": Range(1e-3, 1e-1, 1e-2),
        },
    ),
    # Proxy-Anchor (arXiv 2003.13911)
    "proxy_anchor": Objective(
        lambda p, b, h: losses.proxy_anchor(
            b.both, b.labels, p["proxies"], h["alpha"], h["delta"]
        ),
        _proxies,
        {
            "alpha": Range(2.0, 64.0, 32.0),
            "delta": Range(0.0, 0.4, 0.1, log=False),
            "loss_rate": _CLASS_RATE,
        },
        has_classes=True,
    ),
    # Proxy-NCA (arXiv 1703.07464)
    "proxy_nca": Objective(
        lambda p, b, h: losses.proxy_nca(
            b.both, b.labels, p["proxies"], h["scale"]
        ),
        _proxies,
        # The squared distance is 2 - 2 cos, so a scale s multiplies cosines by
        # 2 s: this is CosFace's range.
        {"scale": Range(1.0, 32.0, 9.0), "loss_rate": _CLASS_RATE},
        has_classes=True,
    ),
    # Softmax, linear head (arXiv 1811.12649)
    "softmax": Objective(
        lambda p, b, h: losses.linear_softmax(
            b.outputs, b.labels, p["kernel"], p["bias"]
        ),
        lambda means, hyper: {
            "kernel": jnp.asarray(means),
            "bias": jnp.zeros(len(means), jnp.float32),
        },
        {"loss_rate": _CLASS_RATE},
        has_classes=True,
    ),
}
