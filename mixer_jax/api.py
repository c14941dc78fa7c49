"""Public functions that combine several subpackages; see `mixer_jax`."""

import dataclasses
import numbers
import os
import pathlib
import tempfile
from typing import Any

import pandas as pd
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax.categories import click_log, find, tables
from mixer_jax.categories.settings import Settings
from mixer_jax.data.images import checking
from mixer_jax.models import features
from mixer_jax.retrieval.model import Model, load
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean
from mixer_jax.training import curriculum
from mixer_jax.training.config import arguments


def train(
    config: ConfigDict | str | os.PathLike,
    workdir: str | os.PathLike,
    *,
    mesh: Mesh | None = None,
) -> Model:
    """Trains a stage or a curriculum and returns the model.

    Repeating the call resumes an interrupted run; a finished run is only
    loaded.

    Args:
      config: a config, as returned by `training.config.defaults.defaults`, or
        the path of a config file, such as "configs/stage1.py:runlocal".
      workdir: the folder of checkpoints and logs.
      mesh: the devices to use; by default all.

    Raises:
      UserError: if the config, the data or the workdir is invalid; raised
        before any computation.
      SystemExit: if SIGTERM or SIGINT stopped the run; raised after a
        checkpoint is saved.
    """
    if not isinstance(config, ConfigDict):
        config = arguments.load_config(os.fspath(config))
    if not os.fspath(workdir):  # "" would be the current folder.
        raise UserError("workdir is empty; name a folder.")
    curriculum.run(config, workdir, mesh)
    return load(workdir, mesh=mesh)


def find_categories(
    queries: click_log.Source,
    items: click_log.Source,
    clicks: click_log.Source,
    *,
    image_encoder: str = "efficientnet-lite0",
    text_encoder: str = "minilm",
    image_size: int = 128,
    max_skipped: float = 0.01,
    cache: str | os.PathLike | None = None,
    mesh: Mesh | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Finds the categories of a click log.

    Args:
      queries: a data frame, or the path of a table, with the columns query_id
        and image. Image paths are relative to the table's folder, or to the
        working directory for a data frame.
      items: a data frame or path, with the columns item_id, image and text.
      clicks: a data frame or path, with the columns query_id, item_id,
        exposures and clicks.
      image_encoder: the name of the frozen image encoder.
      text_encoder: the name of the frozen text encoder.
      image_size: the side of the scaled images, in pixels.
      max_skipped: the maximum share of unreadable images.
      cache: a folder that stores the encoders' output for later calls.
      mesh: the devices that search for neighbors; by default all.
      **settings: fields of `categories.settings.Settings`.

    Returns:
      One row per sample, queries first: sample_id, role ("query" or
      "document"), image (an absolute path), text, group and category_id, which
      is "" for samples that share a category with no other sample.

    Raises:
      UserError: if a table or a setting is invalid, or too many images cannot
        be read.
    """
    chosen = _settings(settings)
    _check_call(image_size, max_skipped)
    clicked = click_log.read_tables(queries, items, clicks)
    samples = tables.catalog(clicked)
    samples, _ = checking.check_images(
        samples, "/", max_skipped, option="max_skipped"
    )
    clicked = click_log.keep(clicked, set(samples["sample_id"]))
    with tempfile.TemporaryDirectory() as temporary:
        shown = features.log_features(
            clicked,
            pathlib.Path(cache or temporary) / "features.npz",
            image_encoder,
            text_encoder,
            image_size,
        )
    found = find.find_categories(shown, clicked.clicks, chosen, mesh)
    rows, _ = tables.found_rows(samples, found.combined)
    ids = dict(zip(rows["sample_id"], rows["category_id"], strict=True))
    return samples.reset_index(drop=True).assign(
        category_id=[ids.get(name, "") for name in samples["sample_id"]]
    )


def _check_call(image_size: Any, max_skipped: Any) -> None:
    """Checks numbers that would otherwise fail only after reading tables."""
    if not isinstance(image_size, numbers.Integral) or image_size < 1:
        raise UserError(
            f"image_size is {image_size!r}; it must be a positive integer."
        )
    is_number = isinstance(max_skipped, numbers.Real)
    if not is_number or not 0 <= float(max_skipped) <= 1:
        raise UserError(
            f"max_skipped is {max_skipped!r}; it must be from 0 to 1."
        )


def _settings(given: dict[str, Any]) -> Settings:
    names = [field.name for field in dataclasses.fields(Settings)]
    unknown = [name for name in given if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names) or "."
        raise UserError(
            f"There is no setting {unknown[0]!r}{hint} Available settings: "
            f"{', '.join(names)}."
        )
    return Settings(**given).check()
