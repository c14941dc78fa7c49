"""Encoder families: the link between an encoder and its original."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn

from mixer_jax.models.encoders.key_map import KeyMap
from mixer_jax.runtime.errors import UserError


class Family(NamedTuple):
    """An architecture, with conversions to and from its original files.

    Attributes:
      module: the encoder class; its field `config` is an instance of `sizes`.
      sizes: the class of the encoder's config, a frozen dataclass.
      keys: names of the tensors in the original files.
      read: converts the original config.json to an encoder config.
      write: converts an encoder config to the original config.json.
    """

    module: type[nn.Module]
    sizes: type
    keys: KeyMap
    read: Callable[[Mapping[str, Any]], Any]
    write: Callable[[Any], dict[str, Any]]


def check_fixed(
    owner: str, config: Mapping[str, Any], fixed: Mapping[str, Any]
) -> None:
    """Checks the keys of a config.json that support only one value.

    Args:
      owner: the name of the encoder, for the message.
      config: the file's content; missing keys have the supported value.
      fixed: the supported value of each key.

    Raises:
      UserError: if a key has another value.
    """
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise unsupported(owner, key, config[key], repr(value))


def unsupported(owner: str, key: str, value: Any, supported: str) -> UserError:
    """Returns the error for an unsupported value in a config.json."""
    return UserError(
        f"The {owner} config has {key} = {value!r}; supported: {supported}."
    )
