"""The training command with the toy model."""

import conftest as toy

from mixer_jax import main
from mixer_jax.models import factory
from mixer_jax.training.config import command_line

factory.make_model = toy.make_model
factory.init_variables = toy.init_variables

if __name__ == "__main__":
    command_line.run(main.main, together=True)
