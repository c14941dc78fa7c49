"""A run's folder: whose it is, before anything is computed in it."""

import json
import os
import pathlib
import secrets
import socket
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mixer_jax import paths, processes
from mixer_jax.errors import UserError
from mixer_jax.training import config as config_lib

CONFIG = "config.json"
CATEGORIES = "categories.json"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"  # checkpoints that could not be read
FEATURES = "features"
_MARK = ".shared-"


def _read(path: paths.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except paths.failures() as error:
        raise UserError(
            f"{path} is missing or damaged ({error}). Restore it from a copy, "
            "or train again in another folder."
        ) from error


def latest_step(workdir: str | os.PathLike) -> int | None:
    """Returns the step of the last whole checkpoint, None without one.

    Raises:
      UserError: if the system does not let this process look there.
    """
    folder = paths.make(workdir) / CHECKPOINTS
    with paths.reaching(folder):
        try:
            if not folder.is_dir():
                return None
        except OSError as error:
            if paths.is_remote(folder):
                raise
            raise UserError(
                f"{workdir} cannot be looked into: {error.strerror}."
            ) from error
        return max(
            ocp.utils.checkpoint_steps(paths.plain(folder)), default=None
        )


def trained_step(workdir: str | os.PathLike) -> int:
    """Returns the step of the last whole checkpoint.

    Raises:
      UserError: if there is none.
    """
    step = latest_step(workdir)
    if step is None:
        raise UserError(
            f"{workdir} has no checkpoint of a trained model. The workdir of "
            "one stage is wanted, such as runs/quickstart/stage3."
        )
    return step


def check_config(workdir: str | os.PathLike, config: ConfigDict) -> None:
    """Checks that `workdir` is new or belongs to a run of this config.

    Raises:
      UserError: that lists the keys that differ.
    """
    if latest_step(workdir) is None:
        return
    different = config_lib.differences(read_config(workdir), config)
    if different:
        raise UserError(
            f"{workdir} holds a run of another config ({'; '.join(different)})."
            " Use another --workdir, or delete this one to start afresh."
        )


def check_categories(
    workdir: str | os.PathLike, category_ids: Sequence[str]
) -> None:
    """Checks that `workdir` is new or of a run with these categories.

    Raises:
      UserError: that counts the categories that came and went.
    """
    if latest_step(workdir) is None:
        return
    old, new = set(read_categories(workdir)), set(category_ids)
    if old != new:
        raise UserError(
            f"The run in {workdir} was of {len(old)} categories, but the "
            f"table now has {len(new)}: {len(new - old)} are new and "
            f"{len(old - new)} gone. Use another --workdir, or delete this "
            "one to start afresh."
        )


def prepare(
    workdir: str | os.PathLike,
    config: ConfigDict,
    category_ids: Sequence[str],
) -> None:
    """Writes `config.json` and `categories.json`; both were checked before.

    Raises:
      UserError: if the folder cannot be written to, or is not one folder for
        all processes.
    """
    workdir = paths.make(workdir)
    try:
        if jax.process_index() == 0:
            paths.make_folder(workdir / CHECKPOINTS)
            paths.write(workdir / CONFIG, config_lib.to_json(config))
            text = json.dumps(list(category_ids), indent=0) + "\n"
            paths.write(workdir / CATEGORIES, text)
    except paths.failures() as error:
        raise UserError(
            f"The workdir {workdir} cannot be written to: {error}. Name "
            "another folder by --workdir."
        ) from error
    with paths.reaching(workdir):
        _check_shared(workdir)


def _check_shared(workdir: paths.Path) -> None:
    """Checks that all processes see one folder, not one each of that name."""
    if jax.process_count() == 1:
        return
    mark = workdir / f"{_MARK}{secrets.token_hex(8)}"
    if jax.process_index() == 0:
        # Those of a run that was killed.
        for left in paths.glob(workdir, f"{_MARK}*"):
            left.unlink()
        paths.write(mark, "")
    mark = workdir / processes.gather("mark", mark.name)[0]
    seen = processes.gather("seen", [mark.exists(), socket.gethostname()])
    if jax.process_index() == 0:
        mark.unlink()
    blind = [index for index, (sees, _) in enumerate(seen) if not sees]
    if blind:
        raise UserError(
            f"The workdir {workdir} of process {blind[0]} (on "
            f"{seen[blind[0]][1]}) is not that of process 0 (on {seen[0][1]}): "
            "a local folder is another one on every host, and a checkpoint "
            "needs one that all of them share. Use a bucket, as in "
            "--workdir=gs://BUCKET/runs/stage1, or a network file system."
        )


def read_config(workdir: str | os.PathLike) -> ConfigDict:
    """Returns the config that `workdir` was trained with.

    Keys that there were not yet have their defaults, which are what was done.
    """
    saved = config_lib.from_dict(_read(paths.make(workdir) / CONFIG))
    config = config_lib.defaults()
    with config.ignore_type():
        config.update(saved)
    return config


def read_categories(workdir: str | os.PathLike) -> list[str]:
    """Returns the category ids of `workdir`, in the order of their labels."""
    return _read(paths.make(workdir) / CATEGORIES)


def features_folder(
    workdir: str | os.PathLike, config: ConfigDict
) -> pathlib.Path:
    """Returns this process's folder for what `data.cached` keeps.

    It is on this machine, because what is in it is memory-mapped: the one that
    `data.features` names, else in the workdir, else, of a workdir in a bucket,
    in the machine's cache.
    """
    workdir = paths.make(workdir)
    if config.data.features:
        folder = pathlib.Path(config.data.features)
    elif paths.is_remote(workdir):
        folder = paths.cache(workdir) / FEATURES
    else:
        folder = workdir / FEATURES
    return folder / str(jax.process_index())
