"""Whether a checkpoint holds what it should, from a look at its files.

A save that ends without an error may still have left files that nobody can
read. What is looked at are the metadata of each item and the index of its
arrays' chunks (OCDBT), with the files that it refers to; no array is read.
"""

import json
import math
import pathlib
import urllib.parse
from collections.abc import Sequence

import orbax.checkpoint as ocp
import tensorstore

from mixer_jax import paths

_TREE = "_METADATA"  # of an item with arrays
_ITERATOR = "iterator/metadata"
_EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")


def is_written(folder: paths.Path) -> bool:
    """Returns whether nothing is added to a checkpoint any more."""
    if not folder.is_dir():
        return False
    # Objects appear in a bucket one by one, the one that says so last.
    return not paths.is_remote(folder) or ocp.utils.is_checkpoint_finalized(
        folder
    )


def missing(folder: paths.Path, arrays: Sequence[str]) -> str:
    """Returns what a checkpoint lacks, in a few words; "" if nothing.

    Args:
      folder: of the checkpoint.
      arrays: its items with arrays; the only other one is the iterator.
    """
    folder = paths.plain(folder)
    for name in arrays:
        if what := _missing_of_item(folder / name):
            return f"{name}: {what}"
    try:
        json.loads((folder / _ITERATOR).read_text())
    except paths.failures() as error:
        return f"{_ITERATOR} cannot be read, {paths.reason(error)}"
    return ""


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
        return f"it cannot be read, {paths.reason(error)}"


def _is_array(leaf: dict) -> bool:
    return leaf["value_metadata"]["value_type"] not in _EMPTY


def _missing_chunks(tree: dict, store: tensorstore.KvStore) -> str:
    """Compares the arrays and their chunks with those that are listed."""
    chunks: dict[str, int] = {}
    for key in store.list().result():
        array = key.decode().rpartition("/")[0]
        chunks[array] = chunks.get(array, -1) + 1  # .zarray is none of them
    for leaf in tree.values():
        if not _is_array(leaf):
            continue
        array = ".".join(str(part["key"]) for part in leaf["key_metadata"])
        about = store.read(f"{array}/.zarray").result()
        if about.state != "value":
            return f"there is no {array}"
        shape = json.loads(about.value)
        wanted = math.prod(
            -(-size // chunk)
            for size, chunk in zip(shape["shape"], shape["chunks"], strict=True)
        )
        if chunks[array] != wanted:
            return f"{array} has {chunks[array]} of {wanted} chunks"
    return ""


def _missing_files(folder: paths.Path, base: tensorstore.KvStore) -> str:
    """Looks for the files that the index refers to, and at their sizes."""
    names = {key.decode() for key in base.list().result()}
    for name, size in _files(base).items():
        if name not in names:
            return f"there is no {name}"
        # An object in a bucket is there whole or not at all.
        if isinstance(folder, pathlib.Path):
            there = (folder / name).stat().st_size
            if there < size:
                return f"{name} has {there} of {size} bytes"
    return ""


def _files(base: tensorstore.KvStore) -> dict[str, int]:
    """Returns `{file: bytes that it must have}` of an index."""
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
