"""The toy model and config of the training tests."""

from tests.training.conftest import tiny_config, tiny_table, toy

__all__ = ["tiny_config", "tiny_table", "toy"]
