"""Trains a config's stages in order, each starting from the previous one."""

import os
from collections.abc import Iterator, Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.demo import sources
from mixer_jax.models import factory
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime import paths, terminal
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import loop, setup
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.config import structure

_MANY = 100_000_000  # categories, enough for the active set to hold any batch


def stages(
    config: ConfigDict, workdir: str | os.PathLike
) -> Iterator[tuple[ConfigDict, paths.Path]]:
    """Yields each stage's config and workdir, in the order of training.

    The workdir of a curriculum's stage is the subfolder of `workdir` with the
    stage's name. A stage without `init_from` starts from the stage before it.
    If an encoder's weights come from a folder or the hub, the config.json there
    determines its name.

    Raises:
      UserError: see `structure.check` and `factory.resolve`.
    """
    workdir = paths.make(workdir)
    if "curriculum" not in config:
        stage = config.copy_and_resolve_references()
        structure.check(stage)
        workdir_lib.restore_paths(workdir, stage)
        factory.resolve(stage)
        yield stage, workdir
        return
    before = ""
    for name, stage in config_lib.stages(config).items():
        stage = stage.copy_and_resolve_references()
        try:
            structure.check(stage)
        except UserError as error:
            raise UserError(f"Stage {name}: {error}") from error
        stage.name = name
        stage.init_from = stage.init_from or before
        workdir_lib.restore_paths(workdir / name, stage)
        factory.resolve(stage)
        yield stage, workdir / name
        before = str(workdir / name)


def run(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mesh: Mesh | None = None,
    console: terminal.Console | None = None,
) -> None:
    """Trains every unfinished stage.

    Args:
      config: the config of one stage or of a curriculum.
      workdir: the run's workdir.
      mesh: the device mesh; all devices by default.
      console: the output for progress; standard output by default.

    Raises:
      UserError: see `loop.train`.
    """
    mesh = mesh or mesh_lib.make_mesh()
    check_values(config, workdir, mesh)
    if "curriculum" in config:
        _check_tables(config, workdir)
    for stage, folder in stages(config, workdir):
        loop.train(stage, folder, mesh, console, prefix(config, stage))


def check_values(
    config: ConfigDict, workdir: str | os.PathLike, mesh: Mesh
) -> None:
    """Checks the values of all unfinished stages, before any is trained.

    Raises:
      UserError: see `config.defaults.check_values`.
    """
    left = list(_unfinished(config, workdir))
    for stage, _ in left:
        config_lib.check_values(stage, mesh.size, prefix(config, stage))
    if "curriculum" in config:
        _check_models(config, left, mesh)


def _check_models(
    config: ConfigDict,
    left: Sequence[tuple[ConfigDict, paths.Path]],
    mesh: Mesh,
) -> None:
    """Checks that stages can be set up and match those they start from."""
    before = {}
    for number, (stage, folder) in enumerate(left):
        with config_lib.naming_stage(stage, prefix(config, stage)):
            if number:  # The first stage is set up next anyway.
                setup.assemble(stage, _MANY, mesh)
            if stage.init_from in before:
                setup.check_fit(stage, before[stage.init_from])
        before[str(folder)] = stage


def _check_tables(config: ConfigDict, workdir: str | os.PathLike) -> None:
    """Checks that each unfinished stage has a table or a source to build it."""
    for stage, _ in _unfinished(config, workdir):
        with config_lib.naming_stage(stage, prefix(config, stage)):
            sources.check(stage.data)


def _unfinished(
    config: ConfigDict, workdir: str | os.PathLike
) -> Iterator[tuple[ConfigDict, paths.Path]]:
    """Yields the unfinished stages; see `stages`."""
    for stage, folder in stages(config, workdir):
        if workdir_lib.latest_step(folder) != stage.steps:
            yield stage, folder


def prefix(config: ConfigDict, stage: ConfigDict) -> str:
    """Returns the prefix of the flags that set a stage's keys."""
    return f"config.{stage.name}" if "curriculum" in config else "config"
