"""Evaluation of trained models and of the baselines."""

import os
from collections.abc import Callable, Iterator, Sequence

import jax
import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.data.tables import table as table_lib
from mixer_jax.experiments import baselines as baselines_lib
from mixer_jax.experiments import fusions
from mixer_jax.retrieval import bundle, embed, evaluate, runs
from mixer_jax.runtime import identity
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import inputs
from mixer_jax.training.checkpoint import workdir as workdir_lib


def measure_models(
    models: Sequence[runs.Model],
    mesh: Mesh,
    table: str = "",
    training_table: str = "",
    baselines: bool = False,
    max_skipped: float | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[list[evaluate.Row]]:
    """Evaluates models, and the baselines with the first model's settings.

    Args:
      models: see `runs.find_models`.
      mesh: the devices for embedding and search.
      table: the sample table; "" for the one in each model's config.
      training_table: the first model's training table, for the baselines; ""
        for the one in its config. It must have the rows that the model was
        trained on.
      baselines: whether to evaluate the baselines, those of `baselines.py`
        first and those of `fusions.py` last.
      max_skipped: the maximum share of samples to leave out; None for the
        value in each model's config.
      say: called with a message about dropped samples.

    Yields:
      The rows of each model or baseline as soon as it is evaluated, so that
      they can be saved even if a later one fails; see `evaluate.evaluate`.

    Raises:
      UserError: if a table or a checkpoint is missing or invalid, or several
        processes would evaluate baselines.
    """
    if baselines and jax.process_count() > 1:
        raise UserError(
            "The baselines can only be evaluated by one process; evaluate "
            "them in a separate run."
        )
    configs = [runs.read_config(model.workdir) for model in models]
    for number, (model, config) in enumerate(zip(models, configs, strict=True)):
        if table:
            config.evaluate.table = table
        if max_skipped is not None:
            config.data.max_skipped = max_skipped
        if training_table and not number:
            config.data.table = training_table
        if not table and bundle.is_bundle(model.workdir):
            raise UserError(
                f"{model.workdir} is a bundle, which does not record a sample "
                "table; pass one with --table=PATH."
            )
        # Report missing files before evaluating anything.
        path = evaluate.table_path(config)
        _require(path, f"{model.workdir} is evaluated on", "--table")
        if not bundle.is_bundle(model.workdir):
            workdir_lib.trained_step(model.workdir)
    if baselines or training_table:
        _check_training(models, configs, training_table, baselines)
    # Every process has all embeddings and ranks them for some of the queries.
    alone = mesh
    if jax.process_count() > 1:
        alone = mesh_lib.make_mesh(jax.local_devices())
    frames, ours = {}, None
    for number, ((name, folder), config) in enumerate(
        zip(models, configs, strict=True)
    ):
        path, settings = evaluate.table_path(config), config.evaluate
        root = table_lib.folder(path)
        if not table and (note := runs.rival_note(folder, config)):
            say(note)
        key = (path, settings.split, settings.distractors)
        if key not in frames:
            frames[key], skipped = evaluate.read(
                path,
                settings,
                config.data.max_skipped,
                config.data.max_pixels,
                image_roots=config.data.image_roots,
                together=True,
            )
            for kind in skipped:
                say(f"{path}: {kind}")
        if baselines and not number:
            yield _measure_baselines(config, frames[key], mesh)
        trained = runs.load(folder, mesh)
        embedder = embed.make_embedder(trained, root, mesh, settings.batch_size)
        rows = evaluate.evaluate(
            embedder,
            frames[key],
            root,
            settings,
            alone,
            name,
            config.name,
            step=trained.step,
            together=True,
        )
        excluded = sum(row["excluded"] for row in rows[:2])
        if excluded:
            say(
                f"{name}: excluded a document from a ranking {excluded} times "
                "because it shows the query's own image."
            )
        yield rows
        if name == runs.OURS:
            ours = trained, frames[key], root
            data = config.data
    # The other fusions need a text encoder, which an image-only model lacks.
    if baselines and ours and ours[0].config.model.fusion != "image_only":
        training = table_lib.select(
            table_lib.read_table(data.table, data.image_roots), data.split
        )
        training, _ = inputs.read_usable(
            training, data.table, data, option=table_lib.MAX_SKIPPED
        )
        folder = table_lib.folder(data.table)
        yield fusions.measure_fusions(*ours, training, folder, mesh)


def _check_training(
    models: Sequence[runs.Model],
    configs: Sequence[ConfigDict],
    table: str,
    baselines: bool,
) -> None:
    """Checks the training tables of the first model and of the baselines.

    The other fusions are trained on the table of the run's last stage, which
    may differ from that of the first model.
    """
    ours = [i for i, model in enumerate(models) if model.name == runs.OURS]
    for number in sorted({0, *(ours[-1:] if baselines else ())}):
        folder, data = models[number].workdir, configs[number].data
        if table and not os.path.exists(data.table):
            data.table = table
        if not data.table:
            raise UserError(
                f"{folder} is a bundle, which does not record a training "
                "table; pass one with --training-table=PATH."
            )
        _require(data.table, f"{folder} was trained on", "--training-table")
        training_rows(folder, data)


def _require(path: str | os.PathLike, usage: str, option: str) -> None:
    if not os.path.exists(path):
        raise UserError(
            f"There is no sample table {path}, which {usage}. If it was moved, "
            f"pass its new path with {option}=PATH."
        )


def _measure_baselines(config, frame, mesh: Mesh) -> list[evaluate.Row]:
    data, path = config.data, evaluate.table_path(config)
    training = table_lib.select(
        table_lib.read_table(data.table, data.image_roots), data.split
    )
    return baselines_lib.measure_baselines(
        frame,
        table_lib.folder(path),
        training,
        table_lib.folder(data.table),
        data.image_size,
        config.evaluate,
        mesh,
    )


def training_rows(workdir: str | os.PathLike, data: ConfigDict) -> pd.DataFrame:
    """Returns the rows that a run was trained on.

    Args:
      workdir: the run's workdir.
      data: the `data` section of its config.

    Raises:
      UserError: if the table cannot be read, or its rows differ from those
        that the run recorded.
    """
    split = table_lib.select(
        table_lib.read_table(data.table, data.image_roots), data.split
    )
    was = (workdir_lib.read_origin(workdir).get("split") or {}).get("rows")
    if was and identity.hash_rows(split) != was:
        raise UserError(
            f"The training samples in {data.table} differ from those that "
            f"{workdir} was trained on; pass the original table with "
            "--training-table=PATH."
        )
    return split
