"""A head over the positives and each sample's nearest current proxies."""

import dataclasses

import jax

from mixer_jax.proxies import hardest
from mixer_jax.proxies.heads.sampled import Sampled


@dataclasses.dataclass(frozen=True)
class TopK(Sampled):
    """A head that adds each sample's nearest negatives among all proxies.

    Every step scores all C proxies; the loss, the gradients and the update
    cover the active rows only.

    Attributes:
      neighbors: k, the number of nearest negatives per sample.
    """

    neighbors: int

    def near(self, proxies, batch, graph) -> jax.Array:
        """Scores this device's rows; see `Sampled.near`."""
        return hardest.negatives(
            proxies,
            batch,
            self.num_categories,
            self.neighbors,
            self.loss,
            approximate=self.mesh.devices.flat[0].platform == "tpu",
        )
