"""Decides how a stage starts; the only module to do so."""

import enum
import os

from ml_collections import ConfigDict

from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import workdir as workdir_lib


class Start(enum.Enum):
    """The five ways in which a stage can start."""

    FINISHED = "finished"  # all steps are done
    RESUMED = "resumed"  # from its last checkpoint
    OTHER_STAGE = "other stage"  # from parameters and proxies of `init_from`
    PRETRAINED = "pretrained"  # from published weights of its encoders
    RANDOM = "random"  # from random weights

    @property
    def has_checkpoint(self) -> bool:
        """Whether the stage has a checkpoint of its own."""
        return self in (Start.FINISHED, Start.RESUMED)


def decide(config: ConfigDict, workdir: str | os.PathLike) -> Start:
    """Returns the first way to start that applies.

    Args:
      config: the stage's config.
      workdir: the stage's workdir.
    """
    step = workdir_lib.latest_step(workdir)
    # 1. The last checkpoint is that of the last step.
    if step == config.steps:
        return Start.FINISHED
    # 2. Any checkpoint of the stage itself takes precedence over other weights.
    if step is not None:
        return Start.RESUMED
    # 3. Another stage has trained the parameters already.
    if config.init_from:
        return Start.OTHER_STAGE
    # 4. At least one encoder has published weights; others are random.
    if config.model.image.pretrained or config.model.text.pretrained:
        return Start.PRETRAINED
    # 5. Nothing was trained before.
    return Start.RANDOM


def check(
    config: ConfigDict, workdir: str | os.PathLike, prefix: str = "config"
) -> None:
    """Checks that the stage to start from, if any, has a checkpoint.

    Args:
      config: the stage's config.
      workdir: the stage's workdir.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".

    Raises:
      UserError: if it has none; names the command to run first.
    """
    if (
        decide(config, workdir) is not Start.OTHER_STAGE
        or workdir_lib.latest_step(config.init_from) is not None
    ):
        return
    command = config.init_command or (
        f"python -m mixer_jax.main --config=CONFIG --workdir={config.init_from}"
    )
    raise UserError(
        f"{config.name} starts from {config.init_from}, which has no "
        f"checkpoint yet. Run this first:\n  {command}\nor set "
        f"--{prefix}.init_from=DIR to the folder of another run."
    )


def describe(config: ConfigDict, workdir: str | os.PathLike) -> str:
    """Describes the starting point of a stage."""
    start = decide(config, workdir)
    if start.has_checkpoint:
        return f"its checkpoint of step {workdir_lib.latest_step(workdir)}"
    if start is Start.OTHER_STAGE:
        return config.init_from
    return f"{start.value} weights"
