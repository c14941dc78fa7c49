"""Models of a run: the workdirs of its stages, or a bundle."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.retrieval import bundle, evaluate
from mixer_jax.runtime import paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.checkpoint import checkpoints, workdir
from mixer_jax.training.config import places

OURS = "mixer"  # the name of the run's own model in evaluation rows
_INDEX = "index.json"  # in the folder of an index; see `service.stores`


class Model(NamedTuple):
    """A model's workdir, and the model's name in evaluation rows."""

    name: str
    workdir: paths.Path


def find_stages(
    run: str | os.PathLike, names: Iterable[str] = ()
) -> list[paths.Path]:
    """Returns the workdirs of a run's stages; `[run]` for a stage or bundle.

    Args:
      run: the folder of a curriculum or a stage, or a bundle.
      names: the names of the stages to return; all if empty.

    Raises:
      UserError: if one of `names` does not exist.
    """
    run = paths.make(run)
    with paths.reaching(run):
        if bundle.is_bundle(run) or (run / workdir.CONFIG).is_file():
            stage = read_config(run).name
            unknown = [name for name in names if name not in (run.name, stage)]
            if unknown:
                raise UserError(
                    f"{run} is the single stage {stage!r} and has no stage "
                    f"{unknown[0]!r}; leave out --stage."
                )
            return [run]
        configs = paths.glob(run, f"*/{workdir.CONFIG}")
    folders = {path.parent.name: path.parent for path in configs}
    stages = sorted(name for name in folders if name.startswith("stage"))
    missing = [name for name in names if name not in folders]
    if missing:
        raise UserError(
            f"{run} has no stage {missing[0]!r}; it has "
            f"{', '.join(stages) or 'none'}."
        )
    return [folders[name] for name in dict.fromkeys(names) or stages]


def find_models(
    run: str | os.PathLike,
    stages: Sequence[str] = (),
    others: Sequence[str] = (),
) -> list[Model]:
    """Returns the models to evaluate.

    Args:
      run: the folder of a curriculum or a stage, or a bundle.
      stages: stages of the curriculum; all if empty.
      others: further models as `NAME=WORKDIR`, where the name has no `=`; for
        a curriculum, its last stage is used.

    Raises:
      UserError: if a run has no trained stage, one of `others` is malformed, or
        two models have the same name and stage.
    """
    models = [Model(OURS, w) for w in find_stages(run, stages)]
    for other in others:
        name, _, folder = other.partition("=")
        if not (name and folder):
            raise UserError(f"--model is {other!r}; it must be NAME=WORKDIR.")
        found = find_stages(folder)
        if not found:
            raise _no_stage_error(folder)
        models.append(Model(name, found[-1]))
    rows: dict[tuple[str, str], paths.Path] = {}
    for name, folder in models:
        key = name, read_config(folder).name
        if key in rows:
            raise UserError(
                f"Stage {key[1]!r} of model {name!r} is given twice, by "
                f"{rows[key]} and {folder}; give each --model=NAME=WORKDIR its "
                "own name."
            )
        rows[key] = folder
    if not models:
        raise _no_stage_error(run)
    return models


def _no_stage_error(run: str | os.PathLike) -> UserError:
    run = paths.make(run)
    if paths.is_remote(run) or not (run / _INDEX).is_file():
        return UserError(
            f"There is no trained stage in {run}; train one with "
            "python -m mixer_jax.main."
        )
    inside = run / "model"  # of an index built with published weights
    hint = f", or use its model, {inside}" if bundle.is_bundle(inside) else ""
    return UserError(
        f"{run} is an index, not a model; open it with mixer_jax.open_index"
        f"{hint}."
    )


def read_config(folder: paths.Path) -> ConfigDict:
    """Returns the config of a stage's workdir, or of a bundle."""
    if bundle.is_bundle(folder):
        return bundle.read_config(folder)
    return workdir.read_config(folder)


def latest_step(folder: paths.Path) -> int | None:
    """Returns the step of the model in a folder; None if it has no model."""
    if bundle.is_bundle(folder):
        return bundle.read_step(folder)
    return workdir.latest_step(folder)


def load(folder: paths.Path, mesh: Mesh | None = None) -> checkpoints.Trained:
    """Loads the model of a stage's workdir, or of a bundle.

    Raises:
      UserError: if the model is missing or damaged.
    """
    if bundle.is_bundle(folder):
        return bundle.read(folder, mesh)
    return checkpoints.load_model(folder, mesh)


def rival_note(folder: paths.Path, config: ConfigDict) -> str:
    """Returns a message if it is unclear which table is meant, or "".

    After a move, another table may be at the path of the run's own table.

    Args:
      folder: the workdir of a stage.
      config: the stage's config, from `workdir.read_config`.
    """
    path = evaluate.table_path(config)
    key = "evaluate.table" if config.evaluate.table else "data.table"
    recorded = workdir.read_origin(folder).get("places", {}).get(key, {})
    other = places.rival(folder, recorded, path)
    if not other:
        return ""
    return (
        f"{folder} is measured on {path}, but {other} has other contents; "
        "choose one with --table=PATH."
    )
