"""`mixer_jax.main` with additional encoders named `tiny` that compile quickly.

`benchmarks.chaos` trains these encoders; the towers, the heads, the data and
the checkpoints are the usual ones.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixer_jax import main
from mixer_jax.models.encoders import bert, registry
from mixer_jax.training.config import command_line

NAME = "tiny"


class Patches(nn.Module):
    """An image encoder of 4 x 4 patches, like the first layer of a ViT."""

    batch_norm: str = "frozen"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns `[B, P, 16]` for uint8 images `[B, H, W, 3]`."""
        x = images.astype(self.dtype) / 128 - 1
        x = nn.Conv(16, (4, 4), (4, 4), dtype=self.dtype)(x)
        return nn.relu(x).reshape(len(x), -1, 16)


def register() -> None:
    """Registers the tiny encoders under the name `tiny`."""
    config = bert.BertConfig(width=16, layers=1, heads=2, hidden=32)
    registry.IMAGE_ENCODERS[NAME] = Patches
    registry.TEXT_ENCODERS[NAME] = partial(bert.Bert, config)


if __name__ == "__main__":
    register()
    command_line.run(main.main, together=True)
