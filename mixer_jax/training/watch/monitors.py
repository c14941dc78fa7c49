"""Monitors that detect failures during training and name their remedies."""

import dataclasses
import math
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mixer_jax.runtime.errors import UserError

SAMPLE = 1024  # number of proxies that the figures are computed from
# The meaning and the remedy of an alarm, by the config key of its threshold:
# max_FIGURE or min_FIGURE.
_REMEDIES = {
    "max_proxy_cosine": (
        "the proxies collapse to one direction: lower proxies.learning_rate, "
        "or raise head.uniform or head.margin_size"
    ),
    "min_effective_rank": (
        "the proxies use few dimensions: lower proxies.learning_rate, or lower "
        "model.dim"
    ),
    "max_norm_ratio": (
        "proxy norms explode: lower proxies.learning_rate or set "
        "proxies.weight_decay"
    ),
    "min_concept_variance": (
        "the concept vector is nearly constant, so the text adds nothing: "
        "raise the text encoder's multiple in optimizer.parts, or try "
        "model.memory_norm='slots'"
    ),
    "min_slot_entropy": (
        "few slots of the concept memory are used: lower model.slots or try "
        "model.memory_norm='slots'"
    ),
    "min_active_recall": (
        "the active set misses the hard negatives: lower head.refresh, or "
        "raise head.active or head.neighbors"
    ),
}


class MonitorError(UserError):
    """Raised if a monitor fired and `monitors.on_failure` is "raise"."""


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A monitor that fired: its name `sign`, and a `text` with a remedy."""

    sign: str
    text: str


def proxy_figures(
    proxies: jax.Array,
    key: jax.Array,
    num_categories: int,
    subcenters: int = 1,
) -> dict[str, jax.Array]:
    """Measures collapse and explosion of the proxies.

    Args:
      proxies: `[C_pad, n D]`, not normalized.
      key: the PRNG key to sample `SAMPLE` rows, or all if there are fewer.
      num_categories: C; later rows are padding.
      subcenters: n, per category; each counts as a separate proxy.

    Returns:
      `proxy_cosine`: mean off-diagonal cosine of the sample, 0 if the proxies
      are spread evenly, 1 if all point in the same direction. `effective_rank`:
      exponential of the entropy of the singular values (Roy and Vetterli,
      2007), as a share of the maximum. `norm_ratio`: largest norm of all
      proxies, divided by the median norm of the sample.
    """
    count = min(SAMPLE, num_categories)
    # Draw one row per stratum: sampling without replacement would permute all
    # C rows.
    edges = np.arange(count + 1) * num_categories // count
    width = jnp.asarray(np.diff(edges), jnp.int32)
    rows = jnp.asarray(edges[:-1], jnp.int32)
    rows += jax.random.randint(key, (count,), 0, width)
    sample = proxies[rows].astype(jnp.float32)
    count *= subcenters
    sample = sample.reshape(count, -1)
    norms = jnp.linalg.norm(sample, axis=1)
    unit = sample / jnp.maximum(norms, 1e-12)[:, None]
    total = jnp.sum(jnp.square(jnp.sum(unit, axis=0)))
    cosine = (total - count) / max(1, count * (count - 1))
    # The Gram matrix's eigenvalues are the squared singular values.
    gram = unit.T @ unit if unit.shape[1] < count else unit @ unit.T
    singular = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram), 0.0))
    rank = jnp.exp(_entropy(singular / jnp.sum(singular)))
    every = proxies.astype(jnp.float32)
    every = every.reshape(len(proxies), subcenters, sample.shape[1])
    every = jnp.linalg.norm(every, axis=2).max(1)
    every = jnp.where(jnp.arange(len(every)) < num_categories, every, 0.0)
    return {
        "proxy_cosine": cosine,
        "effective_rank": rank / min(count, unit.shape[1]),
        "norm_ratio": jnp.max(every) / jnp.maximum(jnp.median(norms), 1e-12),
    }


def concept_figures(
    concepts: jax.Array, slots: jax.Array, has_text: jax.Array
) -> dict[str, jax.Array]:
    """Measures whether the concept memory still distinguishes texts.

    Args:
      concepts: f32 `[B, D]`.
      slots: f32 `[B, S]`: mean attention of each document's tokens to slots.
      has_text: bool `[B]`; other rows are ignored.

    Returns:
      `concept_variance`: variance over the batch, averaged over dimensions.
      `slot_entropy`: entropy of the slots' mean use, as a share of log(S). Both
      are NaN if fewer than two documents have a text.
    """
    weight = has_text.astype(jnp.float32)[:, None]
    count = jnp.sum(weight)
    mean = jnp.sum(weight * concepts, axis=0, keepdims=True) / count
    variance = jnp.sum(weight * jnp.square(concepts - mean), axis=0) / count
    use = jnp.sum(weight * slots, axis=0)
    use = use / jnp.maximum(jnp.sum(use), 1e-12)
    enough = count >= 2
    return {
        "concept_variance": jnp.where(enough, jnp.mean(variance), jnp.nan),
        "slot_entropy": jnp.where(
            enough, _entropy(use) / math.log(max(2, slots.shape[1])), jnp.nan
        ),
    }


def _entropy(probabilities: jax.Array) -> jax.Array:
    p = jnp.maximum(probabilities, 1e-12)
    return -jnp.sum(probabilities * jnp.log(p))


class Monitors:
    """Compares figures with the config's thresholds; reports new alarms.

    An alarm is new if its monitor did not fire in the previous check.
    """

    def __init__(self, config: ConfigDict, steps: int):
        """Stores `config.monitors` and the run's number of steps."""
        self._config = config
        self._steps = steps
        self._losses = deque(maxlen=config.plateau_window)
        self._first_loss = math.nan
        self._fired: set[str] = set()

    def record_loss(self, loss: float) -> None:
        """Records the loss of a step; a resumed run starts a new window."""
        if math.isnan(self._first_loss):
            self._first_loss = loss
        self._losses.append(loss)

    def check(self, step: int, figures: dict[str, float]) -> list[Alarm]:
        """Returns the alarms that are new at `step`.

        Raises:
          MonitorError: if there are any and `on_failure` is "raise".
        """
        alarms = [*self._alarms(figures), *self._plateau(step)]
        new = [a for a in alarms if a.sign not in self._fired]
        self._fired = {a.sign for a in alarms}
        if new and self._config.on_failure == "raise":
            raise MonitorError(
                " ".join(a.text for a in new)
                + f" The run stopped at step {step} after a save"
                " (monitors.on_failure is 'raise')."
            )
        return new

    def _alarms(self, figures: dict[str, float]) -> list[Alarm]:
        alarms = []
        for key, text in _REMEDIES.items():
            extreme, _, name = key.partition("_")
            value, threshold = figures.get(name, math.nan), self._config[key]
            above = extreme == "max"
            if value > threshold if above else value < threshold:
                bound = "above" if above else "below"
                alarms.append(
                    Alarm(
                        name,
                        f"{name} is {value:.3g}, {bound} {threshold:g}: "
                        f"{text}.",
                    )
                )
        return alarms

    def _plateau(self, step: int) -> list[Alarm]:
        """Returns an alarm for a flat, high loss in the run's first half."""
        losses = np.asarray(self._losses)
        window = self._config.plateau_window
        if len(losses) < window or step > self._steps / 2:
            return []
        mean = float(losses.mean())
        slope = float(np.polyfit(np.arange(window), losses, 1)[0])
        drop = -slope * window / abs(mean) if mean else math.inf
        if drop >= self._config.min_loss_drop or mean < self._first_loss / 2:
            return []
        moved = "fell" if drop >= 0 else "rose"
        return [
            Alarm(
                "plateau",
                f"the loss {moved} by {abs(drop):.2%} over the last {window} "
                f"steps and is still {mean:.3g}: check the learning rates "
                "(optimizer.learning_rate, proxies.learning_rate), or lower "
                "head.scale and head.margin_size.",
            )
        ]
