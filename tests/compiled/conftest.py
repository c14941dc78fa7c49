"""A toy model and its config, as for the tests of training."""

from tests.training.conftest import tiny_config, tiny_table, toy

__all__ = ["tiny_config", "tiny_table", "toy"]
