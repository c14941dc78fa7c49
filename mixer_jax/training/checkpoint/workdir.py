"""The folder of a run: its files, and checks that it belongs to the run."""

import contextlib
import json
import os
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mixer_jax.data.stream import text as text_lib
from mixer_jax.runtime import identity, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.ownership import sharing
from mixer_jax.runtime.tabular import strings
from mixer_jax.runtime.tabular.strings import Strings
from mixer_jax.training.checkpoint import category_files, wellformed
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.config import places as places_lib

CONFIG = "config.json"
CATEGORIES = category_files.FILE
ORIGIN = "origin.json"  # see `origins`
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"  # checkpoints that could not be read
FEATURES = "features"
_TOKENIZER_FILE = "tokenizer.json"


def _read(path: paths.Path, kind: type, is_ours: Callable[[Any], bool]) -> Any:
    """Returns the content of a JSON file in the workdir.

    Raises:
      UserError: if it is missing, not JSON, of another type, or rejected by
        `is_ours`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind) or not is_ours(content):
            raise ValueError("its content was not written by training")
        return content
    except (*paths.failures(), RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: paths.Path, error: Exception) -> UserError:
    reason = str(error).rstrip(".")
    return UserError(
        f"{path} is missing or damaged ({reason}). Restore it from a copy, "
        "or train again in another folder."
    )


def latest_step(workdir: str | os.PathLike) -> int | None:
    """Returns the step of the last complete checkpoint; None if there is none.

    Raises:
      UserError: if the folder cannot be listed.
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
                f"{workdir} cannot be listed: {error.strerror}."
            ) from error
        return max(
            ocp.utils.checkpoint_steps(paths.plain(folder)), default=None
        )


def trained_step(workdir: str | os.PathLike) -> int:
    """Returns the step of the last complete checkpoint.

    Raises:
      UserError: if there is none.
    """
    step = latest_step(workdir)
    if step is None:
        stage = _last_trained(workdir) or "runs/quickstart/stage3"
        raise UserError(
            f"{workdir} has no checkpoint of a trained model. Use the workdir "
            f"of one stage, such as {stage}."
        )
    return step


def _last_trained(run: str | os.PathLike) -> paths.Path | None:
    """Returns the last folder in `run`, by name, that has a checkpoint."""
    folder = paths.make(run)
    inside = folder.iterdir() if folder.is_dir() else ()
    trained = (path for path in inside if (path / CHECKPOINTS).is_dir())
    for path in sorted(trained, reverse=True):
        if latest_step(path) is not None:
            return path
    return None


def check_config(
    workdir: str | os.PathLike, config: ConfigDict, prefix: str = "config"
) -> None:
    """Checks that `workdir` is new or belongs to a run with this config.

    Args:
      workdir: the stage's workdir.
      config: the stage's config.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".

    Raises:
      UserError: if the config differs; lists the keys.
    """
    step = latest_step(workdir)
    if step is None:
        _check_free(paths.make(workdir) / CONFIG)
        return
    old = read_config(workdir)
    different = config_lib.differences(old, config)
    if not different:
        return
    changes = "; ".join(different)
    message = f"{workdir} contains a run with another config ({changes})."
    if config.steps > old.steps:
        raise UserError(
            f"{message} The learning rate schedule depends on steps, so this "
            f"run (at step {step}) resumes only with --{prefix}.steps="
            f"{old.steps}. To train longer, start a new run from its weights "
            "and proxies, with a new schedule and optimizer state: "
            f"{new_run_flags(workdir, prefix, f'steps={config.steps}')}"
        )
    raise UserError(
        f"{message} Use another --workdir, or delete {workdir} to start over."
    )


def _check_free(path: paths.Path) -> None:
    """Checks that a new run replaces no file of another program."""
    with paths.reaching(path):
        text = path.read_bytes() if path.exists() else None
    if text is not None and not wellformed.is_of_a_run(text):
        raise UserError(
            f"{path} does not belong to a training run and would be "
            "overwritten; choose another --workdir."
        )


def new_run_flags(workdir: str | os.PathLike, prefix: str, *more: str) -> str:
    """Returns the flags of a new run that starts from this one.

    Args:
      workdir: the workdir of this run's stage.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".
      *more: other settings of the stage, as in "steps=9".
    """
    flags = ["--workdir=NEW"]
    _, _, stage = prefix.partition(".")
    if stage:  # Only this stage; the earlier ones are finished.
        flags.append(f"--config.curriculum=('{stage}',)")
    flags.append(f"--{prefix}.init_from={paths.absolute(paths.make(workdir))}")
    flags += [f"--{prefix}.{key}" for key in more]
    return " ".join(map(shlex.quote, flags))


def check_categories(
    workdir: str | os.PathLike,
    category_ids: Sequence[str],
    prefix: str = "config",
) -> None:
    """Checks that `workdir` is new or its run has the same categories.

    Args:
      workdir: the stage's workdir.
      category_ids: the category ids of the data.
      prefix: the prefix of the stage's flags, "config" or "config.STAGE".

    Raises:
      UserError: if they differ; says how many were added and removed.
    """
    if latest_step(workdir) is None:
        return
    recorded = read_origin(workdir).get("categories")
    if recorded and recorded == identity.hash_names(category_ids):
        return
    old = read_categories(workdir)
    kept = int((strings.find(category_ids, old) >= 0).sum())
    added, removed = len(category_ids) - kept, len(old) - kept
    if added or removed:
        raise UserError(
            f"The run in {workdir} has {len(old)} categories, but the table "
            f"now has {len(category_ids)}: {added} are new, {removed} "
            "were removed. Use another --workdir (to start from this run's "
            f"weights and proxies: {new_run_flags(workdir, prefix)}), or "
            f"delete {workdir} to start over."
        )


def prepare(
    workdir: str | os.PathLike,
    config: ConfigDict,
    category_ids: Sequence[str],
    origin: dict[str, Any] | None = None,
) -> None:
    """Writes config, categories and origin, which must have been checked.

    Args:
      workdir: the stage's workdir.
      config: the stage's config.
      category_ids: the category ids, in the order of their labels.
      origin: see `origins`; the locations of the config's paths are added.

    Raises:
      UserError: if the folder cannot be written or is not shared.
    """
    workdir = paths.make(workdir)
    try:
        if jax.process_index() == 0:
            paths.make_folder(workdir / CHECKPOINTS)
            paths.write(workdir / CONFIG, config_lib.to_json(config))
            category_files.write(workdir, category_ids)
            begun = latest_step(workdir) is not None
            old = read_origin(workdir).get("places", {}) if begun else {}
            places = places_lib.record(workdir, config, old)
            recorded = {
                "places": places,
                "categories": identity.hash_names(category_ids),
            }
            write_origin(workdir, (origin or {}) | recorded)
            _copy_tokenizer(workdir, config.data.tokenizer)
    except UserError:  # such as a LostError
        raise
    except paths.failures() as error:
        raise UserError(
            f"The workdir {workdir} cannot be written to: "
            f"{paths.reason(error)}. Choose another --workdir."
        ) from error
    with paths.reaching(workdir):
        sharing.check(
            workdir,
            "The workdir",
            "a checkpoint needs a folder that all of them share. Use a "
            "bucket, as in --workdir=gs://BUCKET/runs/stage1, or a network "
            "file system.",
        )


def relocate(workdir: str | os.PathLike, config: ConfigDict) -> None:
    """Records the current locations of a finished run's paths.

    Its other values stay unchanged. If the workdir cannot be written to, the
    next command looks for the paths again.

    Args:
      workdir: the stage's workdir.
      config: the stage's config; its paths were checked against the run's.
    """
    if jax.process_index() != 0:
        return
    workdir = paths.make(workdir)
    saved, origin = read_saved(workdir), read_origin(workdir)
    old = origin.get("places", {})
    places = old | places_lib.record(workdir, config, old)
    if places == old:
        return
    for key, place in places.items():
        if places_lib.get(config, key) == place["given"]:
            places_lib.put(saved, key, place["given"])
    with contextlib.suppress(*paths.failures()):
        paths.write(workdir / CONFIG, config_lib.to_json(saved))
        write_origin(workdir, origin | {"places": places})


def _copy_tokenizer(workdir: paths.Path, name: str) -> None:
    """Copies a tokenizer's file to the workdir, so that both move together."""
    source = pathlib.Path(name) / _TOKENIZER_FILE
    target = workdir / places_lib.TOKENIZER / _TOKENIZER_FILE
    begun = latest_step(workdir) is not None and target.exists()
    if name != text_lib.MINILM and source.is_file() and not begun:
        paths.make_folder(target.parent)
        paths.write(target, source.read_text(encoding="utf-8"))


def read_config(
    workdir: str | os.PathLike, *, resolve: bool = True
) -> ConfigDict:
    """Returns the config that `workdir` was trained with.

    Keys added by later versions take their defaults, which reproduce the
    earlier behavior.

    Args:
      workdir: the workdir of one stage.
      resolve: whether to replace paths with their current locations (see
        `places`), or to keep them as given.
    """
    config = config_lib.defaults()
    with config.ignore_type():
        config.update(read_saved(workdir))
    if resolve:
        places = read_origin(workdir).get("places", {})
        places_lib.resolve(workdir, config, places)
    return config


def read_saved(workdir: str | os.PathLike) -> ConfigDict:
    """Returns the config as saved, without keys added by later versions."""
    path = paths.make(workdir) / CONFIG
    return config_lib.from_dict(_read(path, dict, wellformed.is_config))


def read_origin(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the origin of a stage; {} if it was not recorded."""
    path = paths.make(workdir) / ORIGIN
    with paths.reaching(path):
        if not path.exists():
            return {}
    return _read(path, dict, wellformed.is_origin)


def write_origin(workdir: str | os.PathLike, origin: dict[str, Any]) -> None:
    """Writes the origin of a stage, in process 0 only."""
    if jax.process_index() == 0:
        text = json.dumps(origin, indent=2) + "\n"
        paths.write(paths.make(workdir) / ORIGIN, text)


def restore_paths(workdir: str | os.PathLike, config: ConfigDict) -> None:
    """Replaces missing paths with those that the run in `workdir` recorded.

    Encoders whose pretrained weights are missing keep their saved architecture.
    """
    if latest_step(workdir) is None:
        return
    places = read_origin(workdir).get("places", {})
    saved = read_config(workdir, resolve=False)
    places_lib.restore(workdir, config, places)
    for part in ("image", "text"):
        encoder, place = config.model[part], f"model.{part}.pretrained"
        gone = not os.path.exists(encoder.pretrained)
        if place in places and gone and encoder.pretrained:
            encoder.name = saved.model[part].name


def read_categories(workdir: str | os.PathLike) -> Strings:
    """Returns the category ids of `workdir`, in the order of their labels.

    Raises:
      UserError: if they are missing or were changed after training.
    """
    recorded = read_origin(workdir).get("categories", "")
    return category_files.read(paths.make(workdir), recorded)


def features_folder(
    workdir: str | os.PathLike, config: ConfigDict
) -> pathlib.Path:
    """Returns this process's folder for stored features.

    It is on this machine, because its files are memory-mapped: in the folder
    `data.features` if that is set, else in the workdir or, if that is in a
    bucket, in the machine's cache.
    """
    workdir = paths.make(workdir)
    if config.data.features:
        folder = pathlib.Path(config.data.features)
    elif paths.is_remote(workdir):
        folder = paths.cache(workdir) / FEATURES
    else:
        folder = workdir / FEATURES
    return folder / str(jax.process_index())
