"""Eight fake devices, no network, and strict numerics for every test."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Grain reads absl flags, which only absl.app parses.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(params=[1, 2, 4, 8])
def num_devices(request):
    """Every sharded computation is compared on these device counts."""
    return request.param
