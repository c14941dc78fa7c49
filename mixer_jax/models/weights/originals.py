"""Encoders in the format of transformers, from a folder or the hub.

    FOLDER/config.json               determines the architecture
    FOLDER/model.safetensors         weights, in one file or in several parts
    FOLDER/pytorch_model.bin         read if there is no model.safetensors
    FOLDER/preprocessor_config.json  mean and standard deviation of pixels

The hub is the Hugging Face hub. Configs name such an encoder by its family and
sizes, as in `resnet {"blocks": [3, 4, 6, 3], ...}`, so that a trained model no
longer needs these files.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mixer_jax.models.encoders.family import Family
from mixer_jax.models.weights import torch_pickle
from mixer_jax.runtime import files
from mixer_jax.runtime.errors import UserError

PyTree = Any

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_original(name: str) -> bool:
    """Returns whether `name` is a folder or could be a name on the hub."""
    if not name or name.endswith(".safetensors"):
        return False
    return Path(name).is_dir() or bool(_HUB_NAME.fullmatch(name))


def describe(name: str, families: Mapping[str, Family]) -> str:
    """Returns an original's encoder name, made up of its family and sizes.

    Args:
      name: a folder, or a name on the hub.
      families: `IMAGE_FAMILIES` or `TEXT_FAMILIES` of `encoders.registry`.

    Raises:
      UserError: if the original cannot be found or read, or is not of one of
        the families.
    """
    folder = find(name)
    original = _json(folder / CONFIG)
    kind = original.get("model_type")
    if kind not in families:
        raise UserError(
            f"{folder / CONFIG} has model_type {kind!r}; supported: "
            f"{', '.join(sorted(families))}."
        )
    try:
        config = families[kind].read(original)
    except KeyError as error:
        raise UserError(
            f"{folder / CONFIG} lacks the key {error.args[0]!r}, which "
            f"model_type {kind!r} requires."
        ) from error
    pixels = folder / PREPROCESSOR
    if hasattr(config, "mean") and pixels.is_file():
        config = _with_pixels(config, _json(pixels))
    return f"{kind} {json.dumps(dataclasses.asdict(config))}"


def read_config(name: str) -> dict[str, Any]:
    """Returns the contents of an original's config.json.

    Args:
      name: a folder, or a name on the hub.

    Raises:
      UserError: if the file cannot be found or read.
    """
    return _json(find(name) / CONFIG)


def _with_pixels(config: Any, original: Mapping[str, Any]) -> Any:
    """Returns the config with the pixel statistics of a preprocessor config."""
    if not {"image_mean", "image_std"} <= original.keys():
        return config
    if not original.get("do_normalize", True):
        return config
    return dataclasses.replace(
        config,
        mean=tuple(round(255 * x, 6) for x in original["image_mean"]),
        std=tuple(round(255 * x, 6) for x in original["image_std"]),
    )


def is_description(name: str) -> bool:
    """Returns whether a name in a config comes from `describe`."""
    return " {" in name


def parse(name: str, families: Mapping[str, Family]) -> tuple[Family, Any]:
    """Returns the family and config for a name from `describe`.

    Raises:
      UserError: if the name does not come from `describe`.
    """
    kind, _, sizes = name.partition(" ")
    try:
        family = families[kind]
        config = family.sizes(**_tuples(json.loads(sizes)))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"The encoder name {name!r} is not a family followed by its sizes "
            f"({error}); correct it, or set pretrained to a folder or a name "
            "on the hub."
        ) from error
    return family, config


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {key: _tuples(x) for key, x in value.items()}
    return value


def find(name: str) -> Path:
    """Returns an original's folder; downloads it from the hub if needed.

    Raises:
      UserError: if `name` is neither a local folder nor a name on the hub.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    # Imported here because few runs need it.
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_FILES]))
        if not list(folder.glob("*.safetensors")):
            more = [*_FILES, "pytorch_model*.bin"]
            folder = Path(snapshot_download(name, allow_patterns=more))
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(
            f"{name!r} is neither a local folder nor a name on the Hugging "
            f"Face hub that is cached or can be downloaded ({lines[0]})."
        ) from error
    return folder


def load(
    name: str, families: Mapping[str, Family], variables: PyTree
) -> PyTree:
    """Returns an encoder's variables with values from an original.

    Args:
      name: a folder, or a name on the hub.
      families: `IMAGE_FAMILIES` or `TEXT_FAMILIES` of `encoders.registry`.
      variables: the encoder's variables; see `key_map.KeyMap.load`.

    Raises:
      UserError: if files are missing or damaged, or do not fit the encoder.
    """
    folder = find(name)
    family, _ = parse(describe(name, families), families)
    return family.keys.load(read(folder), variables, repr(name))


def read(folder: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a folder, from one file or from several parts.

    Raises:
      UserError: if a file is missing or damaged.
    """
    for file in _WEIGHTS:
        if (folder / file).is_file():
            return _renamed(read_file(folder / file))
        index = folder / f"{file}.index.json"
        if index.is_file():
            parts = sorted(set(_json(index).get("weight_map", {}).values()))
            return _renamed(
                {
                    name: tensor
                    for part in parts
                    for name, tensor in read_file(folder / part).items()
                }
            )
    raise UserError(
        f"{folder} contains no weights; it needs {' or '.join(_WEIGHTS)}."
    )


def _renamed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames norm parameters in old files, such as those of the first BERT."""
    modern = {"gamma": "weight", "beta": "bias"}
    return {
        ".".join([*layer, modern.get(leaf, leaf)]): tensor
        for (*layer, leaf), tensor in (
            (name.split("."), tensor) for name, tensor in tensors.items()
        )
    }


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file written by safetensors or `torch.save`.

    Raises:
      UserError: if the file is missing or damaged, or holds objects other
        than tensors.
    """
    if not path.is_file():
        raise UserError(f"The weights file {path} does not exist.")
    files.check_fetched(path)
    if path.suffix != ".safetensors":
        return torch_pickle.read(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"The weights file {path} is damaged: {error}.") from (
            error
        )


def write_file(
    path: Path, tensors: Mapping[str, np.ndarray], framework: str
) -> None:
    """Writes a new safetensors file, with permissions set by the umask.

    Args:
      path: the file's path.
      tensors: the tensors by name.
      framework: the framework that the tensor names follow, such as "pt";
        stored in the metadata.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata={"format": framework})
    path.chmod(mode)  # safetensors makes the file readable only by its owner


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it is not a JSON object.")
    return content


def family_of(
    encoder: nn.Module, families: Mapping[str, Family]
) -> Family | None:
    """Returns the family of an encoder, or None if no family matches."""
    matching = (f for f in families.values() if isinstance(encoder, f.module))
    return next(matching, None)


def save(folder: Path, family: Family, config: Any, variables: PyTree) -> None:
    """Writes an encoder to a folder in the original format.

    Args:
      folder: an existing folder.
      family: the encoder's family.
      config: the encoder's sizes.
      variables: the encoder's variables.
    """
    text = json.dumps(family.write(config), indent=2) + "\n"
    (folder / CONFIG).write_text(text, "utf-8")
    write_file(folder / _WEIGHTS[0], family.keys.store(variables), "pt")
    if hasattr(config, "mean"):
        pixels = {
            "do_normalize": True,
            "image_mean": [x / 255 for x in config.mean],
            "image_std": [x / 255 for x in config.std],
        }
        text = json.dumps(pixels, indent=2) + "\n"
        (folder / PREPROCESSOR).write_text(text, "utf-8")
