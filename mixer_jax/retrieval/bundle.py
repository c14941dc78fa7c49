"""A model bundle: a portable folder with everything needed for inference.

    BUNDLE/config.json        format, fingerprint, step, calibration, and the
                              stage's config without its paths
    BUNDLE/model.safetensors  parameters and batch statistics, float32
    BUNDLE/tokenizer.json     the tokenizer
    BUNDLE/README.md          the model card

A bundle contains no path of the machine that wrote it, and loading it needs
neither the training data nor a network connection.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mixer_jax.data.stream import text
from mixer_jax.models import factory, zero_shot
from mixer_jax.models.weights import originals
from mixer_jax.retrieval import calibration, folders, model_card
from mixer_jax.runtime import files, paths
from mixer_jax.runtime import mesh as mesh_lib
from mixer_jax.runtime.errors import NewerFormatError, UserError
from mixer_jax.training.checkpoint import wellformed
from mixer_jax.training.checkpoint.checkpoints import Trained
from mixer_jax.training.config import defaults as config_lib
from mixer_jax.training.config import places

FORMAT = 1  # incremented on changes that older versions cannot read
CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER, CARD = "tokenizer.json", "README.md"
# Other libraries' models have files with the same names.
KIND = folders.Kind(
    "bundle",
    WEIGHTS,
    (CONFIG, WEIGHTS, TOKENIZER, CARD),
    CONFIG,
    ("format", "fingerprint"),
)

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Errors that may occur when reading a damaged bundle.
_DAMAGE = (
    AttributeError,
    KeyError,
    OSError,
    RecursionError,
    SafetensorError,
    TypeError,
    ValueError,
)
# Prefixes of the config keys that affect the embeddings.
_DEFINING = ("precision", "data.image_size", "data.text_length", "model.")
# Prefixes of keys among them that affect only training or speed.
_EXCEPT = ("dropout", "drop_", "remat", "pretrained", "chunk")


def write(
    trained: Trained,
    folder: str | os.PathLike,
    measures: list[Mapping[str, Any]] = (),
) -> str:
    """Writes a bundle atomically, replacing any existing one.

    Args:
      trained: the model.
      folder: the folder to write.
      measures: rows from `retrieval.evaluate`, shown in the model card. Their
        calibration replaces that of `trained`.

    Returns:
      The fingerprint.

    Raises:
      UserError: if the folder has other contents or cannot be written.
    """
    config = _portable(trained.config)
    tokenizer = _tokenizer_json(trained.config)
    tensors = _flatten(trained.variables)
    digest = _digest(config, tokenizer, tensors)
    known = calibration.choose(measures, trained.step) or trained.calibration
    meta = {
        "format": FORMAT,
        "fingerprint": digest,
        "step": trained.step,
        "categories": len(trained.category_ids),
        "calibration": known and known._asdict(),
        "config": config.to_dict(),
    }
    card = model_card.render(meta, config, measures)

    def save(draft: pathlib.Path) -> None:
        text_files = {
            CONFIG: json.dumps(meta, indent=2) + "\n",
            TOKENIZER: tokenizer,
            CARD: card,
        }
        for name, content in text_files.items():
            (draft / name).write_text(content, "utf-8")
        originals.write_file(draft / WEIGHTS, tensors, "mixer_jax")

    folders.write(folder, KIND, save)
    return digest


def find(name: str | os.PathLike) -> pathlib.Path | None:
    """Returns the folder of a bundle, or None if `name` is not a bundle.

    Args:
      name: a folder, or the name of a bundle on the Hugging Face hub, which is
        downloaded if necessary.

    Raises:
      UserError: if there is no such folder and no such name on the hub.
    """
    folder = pathlib.Path(name)
    if os.path.isdir(folder):
        return folder if is_bundle(folder) else None
    if os.path.exists(folder) or not _HUB_NAME.fullmatch(os.fspath(name)):
        return None
    # Imported here because few programs need it.
    from huggingface_hub import errors, snapshot_download

    try:
        return pathlib.Path(
            snapshot_download(os.fspath(name), allow_patterns=[*KIND.names])
        )
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise UserError(
            f"There is no folder {os.fspath(name)}, and no bundle of that name "
            f"can be downloaded from the Hugging Face hub ({reason})."
        ) from error


def read(folder: str | os.PathLike, mesh: Mesh | None = None) -> Trained:
    """Reads a bundle.

    Args:
      folder: the bundle.
      mesh: the devices to place the variables on; by default all.

    Raises:
      UserError: if the bundle is incomplete, damaged or of a newer format.
    """
    folder = pathlib.Path(folder)
    config, meta = _read_config(folder)
    try:
        tensors = load_file(folders.find(folder, WEIGHTS))
        tokenizer = folders.find(folder, TOKENIZER).read_text("utf-8")
        digest = _digest(_portable(config), tokenizer, tensors)
        if digest != meta["fingerprint"]:
            raise ValueError("its files do not match its fingerprint")
    except _DAMAGE as error:
        raise _damaged(folder, error) from error
    layout = mesh_lib.replicated(mesh or mesh_lib.make_mesh())
    model = zero_shot.make_model(config.model)
    if model is None:
        model = factory.make_model(config.model, jnp.dtype(config.precision))
    return Trained(
        config=config,
        model=model,
        variables=jax.device_put(_unflatten(tensors), layout),
        category_ids=[],
        step=meta["step"],
        calibration=meta["calibration"],
    )


def fingerprint(trained: Trained) -> str:
    """Returns a hash of everything that affects a model's embeddings.

    The hash covers the weights, the tokenizer and the config keys that define
    the model.
    """
    return _digest(
        _portable(trained.config),
        _tokenizer_json(trained.config),
        _flatten(trained.variables),
    )


def read_config(folder: str | os.PathLike) -> ConfigDict:
    """Returns a bundle's config, set to use the bundle's tokenizer."""
    return _read_config(pathlib.Path(folder))[0]


def read_step(folder: str | os.PathLike) -> int:
    """Returns the training step at which a bundle's model was saved."""
    return _read_config(pathlib.Path(folder))[1]["step"]


def is_bundle(folder: str | os.PathLike) -> bool:
    """Returns whether a folder is a bundle, even a damaged one."""
    if paths.is_remote(paths.make(folder)):
        return False
    folder = pathlib.Path(folder)
    try:
        meta = json.loads(folders.find(folder, CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return folders.find(folder, WEIGHTS).is_file()
    # Workdirs and other libraries' models also have a config.json.
    return isinstance(meta, dict) and "fingerprint" in meta


def _read_config(folder: pathlib.Path) -> tuple[ConfigDict, dict[str, Any]]:
    """Returns a bundle's config, and its step, fingerprint and calibration."""
    path = folders.find(folder, CONFIG)
    remedy = "export it again with `python -m mixer_jax.export`"
    try:
        meta = files.read_record(path, FORMAT, f"The bundle {folder}", remedy)
        if not wellformed.is_config(meta["config"]):
            raise ValueError("its config has values of the wrong type")
        config = config_lib.defaults()
        with config.ignore_type():
            config.update(config_lib.from_dict(meta["config"]))
        config.data.tokenizer = str(
            folders.find(folder, TOKENIZER).resolve().parent
        )
        known = meta.get("calibration")
        return config, {
            "step": int(meta["step"]),
            "fingerprint": str(meta["fingerprint"]),
            "calibration": known and calibration.parse(known),
        }
    except NewerFormatError:
        raise
    except _DAMAGE as error:
        raise _damaged(folder, error) from error


def _damaged(folder: pathlib.Path, error: Exception) -> UserError:
    files.check_fetched(*(folders.find(folder, name) for name in KIND.names))
    return UserError(
        f"The bundle {folder} is damaged ({error!r}); copy it again, or export "
        "it again with `python -m mixer_jax.export`."
    )


def _portable(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a stage's config without machine-specific paths."""
    config = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    keys = ("data.prepared", "data.features", "data.image_roots")
    for key in (*places.KEYS, "init_command", *keys):
        places.put(config, key, "")
    return config


def _tokenizer_json(config: ConfigDict) -> str:
    return text.load(config.data.tokenizer, config.data.text_length).to_json()


def _flatten(variables: Any) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    return {name: np.asarray(array) for name, array in flat.items()}


def _unflatten(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree = traverse_util.unflatten_dict(dict(tensors), sep="/")
    return {"batch_stats": {}, **tree}


def _digest(
    config: ConfigDict, tokenizer: str, tensors: Mapping[str, np.ndarray]
) -> str:
    flat = config_lib.flatten(config)
    defining = {
        key: value
        for key, value in flat.items()
        if key.startswith(_DEFINING)
        and not key.rsplit(".", 1)[-1].startswith(_EXCEPT)
    }
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(defining, sort_keys=True).encode())
    digest.update(hashlib.sha256(tokenizer.encode()).digest())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
