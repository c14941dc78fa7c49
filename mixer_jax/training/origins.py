"""What a stage was trained from, so that a resume compares content, not paths.

`WORKDIR/origin.json` holds hashes of the table's rows and of the images' sizes
and bytes (see `runtime/identity.py`), of the folders that weights and tokenizer
came from, and what identifies the stage before; and where all these were.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.data import sources, table, text
from mixer_jax.errors import UserError
from mixer_jax.runtime import identity
from mixer_jax.training import config as config_lib
from mixer_jax.training import places as places_lib
from mixer_jax.training import workdir as workdir_lib
from mixer_jax.training.inputs import Inputs

Origin = dict[str, Any]


def describe(config: ConfigDict, inputs: Inputs) -> Origin:
    """Returns what a stage of this config and data is trained from."""
    return _describe_data(inputs) | {
        "folders": {
            key: _hash_folder(key, places_lib.get(config, key))
            for key in places_lib.FOLDERS
        },
        "init_from": _identify(config.init_from) if config.init_from else {},
    }


def merge(workdir: str | os.PathLike, new: Origin) -> Origin:
    """Returns what to note: a run that is resumed keeps what it started from.

    Args:
      workdir: whose origin was compared with `new`.
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
    """Checks that a run resumes from what it began with, but for its data.

    That is the stage before, and the folders of weights and tokenizer. One
    that is gone is taken for the same if its path is the noted one: what came
    from it is in the checkpoint.

    Raises:
      UserError: that says what differs.
    """
    if workdir_lib.latest_step(workdir) is None:
        return
    old = workdir_lib.read_config(workdir, resolve=False)
    origin = workdir_lib.read_origin(workdir)
    different = [
        f"{key} was {places_lib.get(old, key)!r}, and "
        f"{places_lib.get(config, key)!r} {reason}"
        for key in ("init_from", *places_lib.FOLDERS)
        if (reason := _difference(workdir, key, old, config, origin))
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run that began otherwise: "
            f"{'; '.join(different)}. Give what it began with, or use another "
            "--workdir."
        )


def _difference(
    workdir: str | os.PathLike,
    key: str,
    old: ConfigDict,
    new: ConfigDict,
    origin: Origin,
) -> str:
    """Returns why a key's value is another than the noted one; "" if not."""
    was, now = places_lib.get(old, key), places_lib.get(new, key)
    if not was or not now:
        return "" if was == now else "is not the same"
    place = origin.get("places", {}).get(key, {"given": was, "absolute": was})
    same = places_lib.is_same(workdir, place, now)
    if key == "init_from":
        noted, found = origin.get(key, {}), _identify(now)
    else:
        noted = origin.get("folders", {}).get(key, "")
        found = _hash_folder(key, now)
        if now == os.path.join(workdir, places_lib.TOKENIZER):
            return ""  # The run's own copy.
    if not (noted and found):
        return "" if same else "is not there to be compared with it"
    if key != "init_from":
        return "" if noted == found else "has other files"
    if noted["run"] != found["run"]:
        return "holds another run"
    if found["step"] == noted["step"]:
        return ""
    if same and found["step"] > noted["step"]:  # The same run, which went on.
        return ""
    return f"is at step {found['step']}, not {noted['step']}"


def check_data(
    workdir: str | os.PathLike, inputs: Inputs, prefix: str = "config"
) -> None:
    """Checks that a run resumes on the rows and images that it began with.

    Raises:
      UserError: that says what has changed, and what would work.
    """
    if workdir_lib.latest_step(workdir) is None:
        return
    origin = workdir_lib.read_origin(workdir)
    if not origin.get("trained"):
        return  # Of a version that noted nothing.
    change = _change(origin, _describe_data(inputs))
    if not change:
        return
    listed = next((s.listing for s in inputs.skipped if s.listing), "")
    if listed and "can be used" in change:
        change += f" ({listed} lists the unreadable images)"
    raise UserError(
        f"{workdir} holds a run on other data: {change}. Restore what it was "
        "trained on, or train on what there is now in another --workdir, "
        f"from these weights if you like: {workdir_lib.way_on(workdir, prefix)}"
    )


def check_table(
    workdir: str | os.PathLike, data: ConfigDict, prefix: str = "config"
) -> None:
    """Checks the table of a finished run, if it is named otherwise than then.

    Reads the table, but no image.

    Raises:
      UserError: if its rows are others.
    """
    origin = workdir_lib.read_origin(workdir)
    place = origin.get("places", {}).get("data.table", {})
    was = (origin.get("split") or {}).get("rows")
    if not was or places_lib.is_same(workdir, place, data.table):
        return
    path = sources.ensure_table(data)
    split = table.select(table.read_table(path), data.split)
    if identity.hash_rows(split) != was:
        raise UserError(
            f"{workdir} holds a finished run on other data: {path} has other "
            f"rows than {place.get('given', 'its table')} had. Use another "
            "--workdir, from these weights if you like: "
            f"{workdir_lib.way_on(workdir, prefix)}"
        )


def _describe_data(inputs: Inputs) -> Origin:
    """Returns the part of `describe` that is of rows and images."""
    data, split = inputs.examine(), inputs.split
    return {
        "split": split and {"samples": split.count, "rows": split.rows},
        "trained": {
            "samples": data.count,
            "rows": data.rows,
            "images": len(data.images),
            "sizes": data.sizes_hash,
        },
    }


def _change(old: Origin, new: Origin) -> str:
    """Says how data have changed; "" if they have not."""
    was, now = old["trained"], new["trained"]
    count, total = now["samples"], was["samples"]
    before, after = old.get("split") or {}, new.get("split") or {}
    if before and after and before["rows"] != after["rows"]:
        count, total = after["samples"], before["samples"]
    elif was["rows"] != now["rows"] and before and after:
        return (
            f"of the {after['samples']:,} samples of the table's split, "
            f"{count:,} can be used, where {total:,} could"
        )
    if (count, total) != (now["samples"], was["samples"]) or (
        was["rows"] != now["rows"]
    ):
        return (
            "the table has other rows of this split "
            f"({total:,} samples then, {count:,} now)"
            if count != total
            else f"of the {count:,} samples of this split, cells or order "
            "have changed in the table"
        )
    if was["sizes"] != now["sizes"]:
        return (
            f"the rows are the same, but of the {now['images']:,} image files "
            "some have another size than then"
        )
    return ""


def check_content(
    workdir: str | os.PathLike, content: str, prefix: str = "config"
) -> None:
    """Checks, and notes, the hash of the images' bytes.

    Args:
      workdir: of the stage.
      content: hash of the rows and of the images' bytes.
      prefix: of the stage's flags.

    Raises:
      UserError: if the run was begun on images of other bytes.
    """
    origin = workdir_lib.read_origin(workdir)
    noted = origin.get("content", "")
    if noted == content:
        return
    if noted and workdir_lib.latest_step(workdir) is not None:
        raise UserError(
            f"{workdir} holds a run on other data: rows and sizes are the "
            "same, but some image files have other bytes than then. Restore "
            "the files, or train on what there is now in another --workdir, "
            "from these weights if you like: "
            f"{workdir_lib.way_on(workdir, prefix)}"
        )
    workdir_lib.write_origin(workdir, origin | {"content": content})


def _hash_folder(key: str, name: str) -> str:
    if not name or "://" in name:
        return ""
    if key == "data.tokenizer" and name == text.MINILM:
        return ""
    return identity.hash_folder(name)


def _identify(init_from: str) -> Mapping[str, Any]:
    """Returns what identifies a workdir's training; {} if it has none."""
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
        workdir_lib.read_categories(init_from),
        workdir_lib.read_origin(init_from).get("trained"),
    ]
    code = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return {"step": step, "run": code}
