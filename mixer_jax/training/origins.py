"""A record of a stage's inputs, so that resuming compares content, not paths.

`WORKDIR/origin.json` holds hashes of the table's rows, of the images' sizes and
bytes (see `runtime/identity.py`) and of the folders of weights and tokenizer,
the identity of the previous stage, and the paths of all of these.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.data.stream import text
from mixer_jax.data.tables import table
from mixer_jax.demo import sources
from mixer_jax.runtime import identity, paths
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.tabular import parts as parts_lib
from mixer_jax.training.checkpoint import workdir as workdir_lib
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.config import places as places_lib
from mixer_jax.training.inputs import Inputs

Origin = dict[str, Any]


def describe(config: ConfigDict, inputs: Inputs) -> Origin:
    """Returns the origin of a stage with this config and data."""
    return dict(inputs.origin) | {
        "folders": {
            key: _hash_folder(key, places_lib.get(config, key))
            for key in places_lib.FOLDERS
        },
        "init_from": _identify(config.init_from) if config.init_from else {},
    }


def merge(workdir: str | os.PathLike, new: Origin) -> Origin:
    """Returns the origin to store; a resumed run keeps the recorded one.

    Args:
      workdir: the run's workdir, whose origin was compared with `new`.
      new: from `describe`.
    """
    if workdir_lib.latest_step(workdir) is None:
        return new
    old = workdir_lib.read_origin(workdir)
    merged = new | {k: v for k, v in old.items() if v}
    folders = new["folders"] | {
        k: v for k, v in old.get("folders", {}).items() if v
    }
    return merged | {"folders": folders}


def check_names(workdir: str | os.PathLike, config: ConfigDict) -> None:
    """Checks that a run resumes with the same origin, except for its data.

    This covers the previous stage and the folders of weights and tokenizer. A
    missing folder counts as unchanged if its path is the recorded one: the
    checkpoint contains everything loaded from it.

    Raises:
      UserError: if the origin differs; names the differences.
    """
    if workdir_lib.latest_step(workdir) is None:
        return
    old = workdir_lib.read_config(workdir, resolve=False)
    origin = workdir_lib.read_origin(workdir)
    different = [
        f"{key} was {places_lib.get(old, key)!r}, but "
        f"{places_lib.get(config, key)!r} {reason}"
        for key in ("init_from", *places_lib.FOLDERS)
        if (reason := _difference(workdir, key, old, config, origin))
    ]
    if different:
        raise UserError(
            f"{workdir} contains a run with another origin: "
            f"{'; '.join(different)}. Use the original values, or another "
            "--workdir."
        )


def _difference(
    workdir: str | os.PathLike,
    key: str,
    old: ConfigDict,
    new: ConfigDict,
    origin: Origin,
) -> str:
    """Returns how a key's value differs from the recorded one, or ""."""
    was, now = places_lib.get(old, key), places_lib.get(new, key)
    if not was or not now:
        return "" if was == now else "is given"
    place = origin.get("places", {}).get(key, {"given": was, "absolute": was})
    same = places_lib.is_same(workdir, place, now)
    if key == "init_from":
        recorded, current = origin.get(key, {}), _identify(now)
    else:
        recorded = origin.get("folders", {}).get(key, "")
        current = _hash_folder(key, now)
        if now == os.path.join(workdir, places_lib.TOKENIZER):
            return ""  # This is the run's own copy.
    if not (recorded and current):
        return "" if same else "does not exist, so it cannot be compared"
    if key != "init_from":
        return "" if recorded == current else "has different files"
    if recorded["run"] != current["run"]:
        return "contains another run"
    if current["step"] == recorded["step"]:
        return ""
    if same and current["step"] > recorded["step"]:
        return ""  # The same run has continued.
    return f"is at step {current['step']}, not {recorded['step']}"


def check_data(
    workdir: str | os.PathLike, inputs: Inputs, prefix: str = "config"
) -> None:
    """Checks that a run resumes on its original rows and images.

    Raises:
      UserError: if the data changed; names the change and a remedy.
    """
    if workdir_lib.latest_step(workdir) is None:
        return
    origin = workdir_lib.read_origin(workdir)
    if not origin.get("trained"):
        return  # An older version recorded no origin.
    change = _change(origin, dict(inputs.origin))
    if not change:
        return
    listed = next((s.listing for s in inputs.skipped if s.listing), "")
    if listed and "can be used" in change:
        change += f" ({listed} lists the unreadable images)"
    raise UserError(
        f"{workdir} contains a run on different data: {change}. Restore its "
        "data, or train on the current data in another --workdir; to start "
        f"from these weights: {workdir_lib.new_run_flags(workdir, prefix)}"
    )


def check_table(
    workdir: str | os.PathLike, data: ConfigDict, prefix: str = "config"
) -> None:
    """Checks the table of a finished run if it may have changed.

    Reads the table, but no images, if its path has changed or any of its
    files is newer than the origin.

    Raises:
      UserError: if the rows differ.
    """
    origin = workdir_lib.read_origin(workdir)
    place = origin.get("places", {}).get("data.table", {})
    was = (origin.get("split") or {}).get("rows")
    same = places_lib.is_same(workdir, place, data.table)
    if not was or (same and not _is_newer(data.table, workdir)):
        return
    path = sources.ensure_table(data)
    split = table.select(table.read_table(path, data.image_roots), data.split)
    if identity.hash_rows(split) != was:
        raise UserError(
            f"{workdir} contains a finished run on different data: the rows "
            f"of {path} differ from those of "
            f"{place.get('given', 'its table')}. Use another --workdir; to "
            "start from these weights: "
            f"{workdir_lib.new_run_flags(workdir, prefix)}"
        )


def _is_newer(path: str, workdir: str | os.PathLike) -> bool:
    """Returns whether a table's files are newer than the origin."""
    if "://" in path or paths.is_remote(workdir) or not os.path.exists(path):
        return False
    times = [os.path.getmtime(each) for each in _entries(path)]
    recorded = os.path.getmtime(os.path.join(workdir, workdir_lib.ORIGIN))
    return max(times) > recorded


def _entries(path: str) -> set[str | os.PathLike]:
    """Returns a table's path and, for a folder, its parts and their folders."""
    if not os.path.isdir(path):
        return {path}
    parts = parts_lib.find(pathlib.Path(path))
    return {path, *parts, *(part.parent for part in parts)}


def _change(old: Origin, new: Origin) -> str:
    """Returns a description of how the data changed; "" if it did not."""
    was, now = old["trained"], new["trained"]
    count, total = now["samples"], was["samples"]
    before, after = old.get("split") or {}, new.get("split") or {}
    if before and after and before["rows"] != after["rows"]:
        count, total = after["samples"], before["samples"]
    elif was["rows"] != now["rows"] and before and after:
        return (
            f"{count:,} of the {after['samples']:,} samples in the table's "
            f"split can be used, but {total:,} could before"
        )
    if (count, total) != (now["samples"], was["samples"]) or (
        was["rows"] != now["rows"]
    ):
        return (
            "the table has different rows in this split "
            f"({total:,} samples before, {count:,} now)"
            if count != total
            else f"the cells or the order of the {count:,} samples in this "
            "split of the table have changed"
        )
    if was["sizes"] != now["sizes"]:
        return (
            f"the rows are the same, but some of the {now['images']:,} image "
            "files have a different size"
        )
    return ""


def check_content(
    workdir: str | os.PathLike, content: str, prefix: str = "config"
) -> None:
    """Checks the hash of the images' bytes, or records it.

    Args:
      workdir: the stage's workdir.
      content: the hash of the rows and of the images' bytes.
      prefix: the prefix of the stage's flags.

    Raises:
      UserError: if the run started with different image bytes.
    """
    origin = workdir_lib.read_origin(workdir)
    recorded = origin.get("content", "")
    if recorded == content:
        return
    if recorded and workdir_lib.latest_step(workdir) is not None:
        if ":" not in recorded:
            raise UserError(
                f"{workdir} contains a run of an earlier version of mixer_jax, "
                "which identified images differently. Train in another "
                "--workdir; to start from these weights: "
                f"{workdir_lib.new_run_flags(workdir, prefix)}"
            )
        raise UserError(
            f"{workdir} contains a run on different data: rows and sizes are "
            "the same, but some image files have different bytes. Restore the "
            "files, or train on the current ones in another --workdir; to "
            "start from these weights: "
            f"{workdir_lib.new_run_flags(workdir, prefix)}"
        )
    workdir_lib.write_origin(workdir, origin | {"content": content})


def _hash_folder(key: str, name: str) -> str:
    if not name or "://" in name:
        return ""
    if key == "data.tokenizer" and name == text.MINILM:
        return ""
    return identity.hash_folder(name)


def _identify(init_from: str) -> Mapping[str, Any]:
    """Returns the identity of a workdir's run; {} without a checkpoint."""
    step = workdir_lib.latest_step(init_from)
    if step is None:
        return {}
    config = config_lib.flatten(workdir_lib.read_saved(init_from))
    fixed = {
        key: value
        for key, value in sorted(config.items())
        if not key.startswith(config_lib.FREE) and key not in places_lib.KEYS
    }
    parts = [
        fixed,
        identity.hash_names(workdir_lib.read_categories(init_from)),
        workdir_lib.read_origin(init_from).get("trained"),
    ]
    return {"step": step, "run": identity.hash_json(parts)}
