"""Trained workdirs -> measured rows, and the baselines beside them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax import paths
from mixer_jax.data import table as table_lib
from mixer_jax.errors import UserError
from mixer_jax.retrieval import baselines as baselines_lib
from mixer_jax.retrieval import bundle, embed, evaluate, fusions
from mixer_jax.training import checkpoints, inputs, places, workdir

OURS = "mixer"  # the name of the run's own model in the rows


class Model(NamedTuple):
    """A trained workdir and the name of its rows."""

    name: str
    workdir: paths.Path


def find_stages(
    run: str | os.PathLike, names: Iterable[str] = ()
) -> list[paths.Path]:
    """Returns the workdirs of a run: its stages', or its own if it is one.

    Args:
      run: a curriculum's folder or a stage's.
      names: of the stages that are wanted; all there are if empty.

    Raises:
      UserError: if a stage that is wanted is not there.
    """
    run = paths.make(run)
    with paths.reaching(run):
        if bundle.is_bundle(run) or (run / workdir.CONFIG).is_file():
            own = read_config(run).name
            wrong = [name for name in names if name not in (run.name, own)]
            if wrong:
                raise UserError(
                    f"{run} is the stage {own!r} alone and has no "
                    f"{wrong[0]!r}; leave out --stage."
                )
            return [run]
        configs = paths.glob(run, f"*/{workdir.CONFIG}")
    there = {path.parent.name: path.parent for path in configs}
    stages = sorted(name for name in there if name.startswith("stage"))
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(
            f"{run} has no stage {missing[0]!r}; it has "
            f"{', '.join(stages) or 'none'}."
        )
    return [there[name] for name in dict.fromkeys(names) or stages]


def find_models(
    run: str | os.PathLike,
    stages: Sequence[str] = (),
    others: Sequence[str] = (),
) -> list[Model]:
    """Returns the models to measure.

    Args:
      run: a curriculum's folder or a stage's.
      stages: stages of the curriculum; all if empty.
      others: further models as `NAME=WORKDIR`, where the name has no `=`; the
        last stage is used for a curriculum.

    Raises:
      UserError: if nothing was trained there, one of `others` is malformed, or
        two models would have the same rows.
    """
    models = [Model(OURS, w) for w in find_stages(run, stages)]
    for other in others:
        name, _, folder = other.partition("=")
        if not (name and folder):
            raise UserError(f"--model is {other!r}; it must be NAME=WORKDIR.")
        found = find_stages(folder)
        if not found:
            raise UserError(f"There is no trained stage in {folder}.")
        models.append(Model(name, found[-1]))
    rows: dict[tuple[str, str], paths.Path] = {}
    for name, folder in models:
        key = name, read_config(folder).name
        if key in rows:
            raise UserError(
                f"The model {name!r}, {key[1]}, is given twice, by {rows[key]} "
                f"and {folder}; give each --model=NAME=WORKDIR a name of its "
                "own."
            )
        rows[key] = folder
    if not models:
        raise UserError(
            f"There is no trained stage in {run}; train one with "
            "python -m mixer_jax.main."
        )
    return models


def read_config(folder: paths.Path) -> ConfigDict:
    """Returns the config of a stage's workdir, or of a bundle."""
    if bundle.is_bundle(folder):
        return bundle.read_config(folder)
    return workdir.read_config(folder)


def latest_step(folder: paths.Path) -> int | None:
    """Returns the step of a workdir's or a bundle's model; None without one."""
    if bundle.is_bundle(folder):
        return bundle.read_step(folder)
    return workdir.latest_step(folder)


def load(folder: paths.Path, mesh: Mesh | None = None) -> checkpoints.Trained:
    """Loads the model of a stage's workdir, or of a bundle.

    Raises:
      UserError: if there is no model, or it is damaged.
    """
    if bundle.is_bundle(folder):
        return bundle.read(folder, mesh)
    return checkpoints.load_model(folder, mesh)


def measure_models(
    models: Sequence[Model],
    mesh: Mesh,
    table: str = "",
    training_table: str = "",
    baselines: bool = False,
    max_skipped: float | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[list[evaluate.Row]]:
    """Measures models, and the baselines with the first model's settings.

    Args:
      models: see `find_models`.
      mesh: the devices for embedding and search.
      table: the sample table; "" for the one in each model's config.
      training_table: the first model's training table, for the baselines; ""
        for the one in its config.
      baselines: whether to measure those of `baselines.py` first, and those of
        `fusions.py` last.
      max_skipped: the maximum share of samples to leave out; None for each
        model's config's.
      say: called with a message about dropped samples.

    Yields:
      The rows of each model or baseline as soon as it is measured, so that
      they can be kept whatever happens to the next; see `evaluate.evaluate`.

    Raises:
      UserError: if a table or a checkpoint is missing or invalid.
    """
    configs = [read_config(model.workdir) for model in models]
    for number, (model, config) in enumerate(zip(models, configs, strict=True)):
        if table:
            config.evaluate.table = table
        if max_skipped is not None:
            config.data.max_skipped = max_skipped
        if training_table and not number:
            config.data.table = training_table
        if not table and bundle.is_bundle(model.workdir):
            raise UserError(
                f"{model.workdir} is a bundle, which names no sample table; "
                "name one with --table=PATH."
            )
        # What can be seen to be missing is said before anything is measured.
        _check_tables(model.workdir, config, baselines and not number)
        if not bundle.is_bundle(model.workdir):
            workdir.trained_step(model.workdir)
    frames, ours = {}, None
    for number, ((name, folder), config) in enumerate(
        zip(models, configs, strict=True)
    ):
        path, settings = evaluate.table_path(config), config.evaluate
        root = table_lib.folder(path)
        if not table and (note := rival_note(folder, config)):
            say(note)
        key = (path, settings.split, settings.distractors)
        if key not in frames:
            frames[key], skipped = evaluate.read(
                path,
                settings,
                config.data.max_skipped,
                config.data.max_pixels,
            )
            for kind in skipped:
                say(f"{path}: {kind}")
        if baselines and not number:
            yield _measure_baselines(config, frames[key], mesh)
        trained = load(folder, mesh)
        embedder = embed.make_embedder(trained, root, mesh, settings.batch_size)
        found = evaluate.evaluate(
            embedder,
            frames[key],
            root,
            settings,
            mesh,
            name,
            config.name,
        )
        excluded = sum(row["excluded"] for row in found[:2])
        if excluded:
            say(
                f"{name}: {excluded} times a document was left out of a "
                "ranking because it shows the query's own image."
            )
        yield found
        if name == OURS:
            ours = trained, frames[key], root
    # Other fusions need what an image-only model does not have.
    if baselines and ours and ours[0].config.model.fusion != "image_only":
        data = ours[0].config.data.copy_and_resolve_references()
        if max_skipped is not None:
            data.max_skipped = max_skipped
        if training_table:
            data.table = training_table
        _require(data.table, "the model was trained on", "--training-table")
        training = inputs.load(data, option=table_lib.MAX_SKIPPED)
        yield fusions.measure_fusions(
            *ours, training.frame, training.root, mesh
        )


def rival_note(folder: paths.Path, config: ConfigDict) -> str:
    """Returns a message if it is unclear which table is meant, or "".

    After a move, another table may lie where the run's own would be.

    Args:
      folder: the workdir of a stage.
      config: from `workdir.read_config`.
    """
    path = evaluate.table_path(config)
    key = "evaluate.table" if config.evaluate.table else "data.table"
    place = workdir.read_origin(folder).get("places", {}).get(key, {})
    other = places.rival(folder, place, path)
    if not other:
        return ""
    return (
        f"{folder} is measured on {path}, but {other} has other contents; "
        "choose one with --table=PATH."
    )


def _check_tables(
    folder: paths.Path, config: ConfigDict, baselines: bool
) -> None:
    """Checks that the tables exist, before anything is measured."""
    path = evaluate.table_path(config)
    _require(path, f"{folder} is measured on", "--table")
    if baselines:
        table = config.data.table
        _require(table, f"{folder} was trained on", "--training-table")


def _require(path: str | os.PathLike, what: str, option: str) -> None:
    if not os.path.exists(path):
        raise UserError(
            f"There is no sample table {path}, which {what}. If it was moved, "
            f"name its new path by {option}=PATH."
        )


def _measure_baselines(config, frame, mesh: Mesh) -> list[evaluate.Row]:
    data, path = config.data, evaluate.table_path(config)
    training = table_lib.select(table_lib.read_table(data.table), data.split)
    return baselines_lib.measure_baselines(
        frame,
        table_lib.folder(path),
        training,
        table_lib.folder(data.table),
        data.image_size,
        config.evaluate,
        mesh,
    )
