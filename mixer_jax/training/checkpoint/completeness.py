"""A check that the files of a checkpoint are complete.

A save can end without an error and still leave unreadable files. The check
covers the metadata of each item, the index of its arrays' chunks (OCDBT) and
the sizes of the files in the index; no array is read.
"""

import json
import math
import pathlib
import urllib.parse
from collections.abc import Sequence

import orbax.checkpoint as ocp
import tensorstore

from mixer_jax.runtime import paths

_TREE = "_METADATA"  # metadata of an item with arrays
_ITERATOR = "iterator/metadata"
_CHECKPOINT = "_CHECKPOINT_METADATA"  # metadata of the whole checkpoint
_EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")


def is_written(folder: paths.Path) -> bool:
    """Returns whether a checkpoint is fully written."""
    if not folder.is_dir():
        return False
    # In a bucket, objects appear one by one, and the marker of a finalized
    # checkpoint appears last.
    return not paths.is_remote(folder) or ocp.utils.is_checkpoint_finalized(
        folder
    )


def missing(folder: paths.Path, arrays: Sequence[str]) -> str:
    """Returns a description of what a checkpoint lacks; "" if it is complete.

    Args:
      folder: the checkpoint's folder.
      arrays: the items with arrays; the only other item is the iterator.
    """
    folder = paths.plain(folder)
    for name in arrays:
        if problem := _missing_of_item(folder / name):
            return f"{name}: {problem}"
    try:
        json.loads((folder / _ITERATOR).read_text())
    except paths.failures() as error:
        return f"{_ITERATOR} cannot be read: {paths.reason(error)}"
    return ""


def other_step(folder: paths.Path) -> str:
    """Returns a message if a folder is named after another step, else "".

    The folder may have been renamed or copied. Older versions did not record
    the step in a checkpoint.
    """
    try:
        text = (paths.plain(folder) / _CHECKPOINT).read_text(encoding="utf-8")
        step = json.loads(text)["custom_metadata"]["step"]
    except (*paths.failures(), KeyError, TypeError):
        return ""
    if folder.name == str(step):
        return ""
    return f"it is the checkpoint of step {step}"


def _missing_of_item(folder: paths.Path) -> str:
    try:
        tree = json.loads((folder / _TREE).read_text())["tree_metadata"]
        if not any(map(_is_array, tree.values())):
            return ""
        base = tensorstore.KvStore.open(paths.kvstore(folder)).result()
        store = tensorstore.KvStore.open(
            {"driver": "ocdbt", "base": paths.kvstore(folder)}
        ).result()
        return _missing_chunks(tree, store) or _missing_files(folder, base)
    except (*paths.failures(), KeyError) as error:
        return f"it cannot be read: {paths.reason(error)}"


def _is_array(leaf: dict) -> bool:
    return leaf["value_metadata"]["value_type"] not in _EMPTY


def _missing_chunks(tree: dict, store: tensorstore.KvStore) -> str:
    """Describes an indexed array that is missing or incomplete; "" if none."""
    chunks: dict[str, int] = {}
    for key in store.list().result():
        array = key.decode().rpartition("/")[0]
        chunks[array] = chunks.get(array, -1) + 1  # not counting .zarray
    for leaf in tree.values():
        if not _is_array(leaf):
            continue
        array = ".".join(str(part["key"]) for part in leaf["key_metadata"])
        about = store.read(f"{array}/.zarray").result()
        if about.state != "value":
            return f"{array} is missing"
        shape = json.loads(about.value)
        wanted = math.prod(
            -(-size // chunk)
            for size, chunk in zip(shape["shape"], shape["chunks"], strict=True)
        )
        if chunks[array] != wanted:
            return f"{array} has {chunks[array]} of {wanted} chunks"
    return ""


def _missing_files(folder: paths.Path, base: tensorstore.KvStore) -> str:
    """Describes an indexed file that is missing or truncated; "" if none."""
    names = {key.decode() for key in base.list().result()}
    for name, size in _files(base).items():
        if name not in names:
            return f"{name} is missing"
        # Objects in a bucket are never truncated.
        if isinstance(folder, pathlib.Path):
            there = (folder / name).stat().st_size
            if there < size:
                return f"{name} has {there} of {size} bytes"
    return ""


def _files(base: tensorstore.KvStore) -> dict[str, int]:
    """Returns `{file: expected size in bytes}` for the files in an index."""
    sizes: dict[str, int] = {}
    manifest = tensorstore.ocdbt.dump(base).result()
    nodes = [version["root"] for version in manifest["versions"]]
    while nodes:
        node = nodes.pop()
        location = node.get("location") or node.get("indirect_value")
        if location is None:
            continue
        kind, *name, offset, length = location.split(":")
        name = "".join(map(urllib.parse.unquote, name))  # folder and file
        sizes[name] = max(sizes.get(name, 0), int(offset) + int(length))
        if kind == "btreenode":
            nodes += tensorstore.ocdbt.dump(base, node=location).result()[
                "entries"
            ]
    return sizes
