"""Reads tensors from a legacy (non-zip) torch pickle, without torch.

The format: four pickles (magic number, protocol version, system information,
the object itself with one persistent id a storage), a pickled list of storage
keys, then for each key an int64 element count and the raw elements.

Unpickling can run any code, so only the few names that a state dict needs are
allowed, and they are stand-ins of ours.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixer_jax.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise UserError(
            f"The weights file asks to load {module}.{name}, which a state "
            "dict of tensors does not need; it is not trusted."
        )

    def persistent_load(self, pid):
        kind, dtype, key, _, size = pid[:5]
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise UserError(f"The weights file has an unknown object {pid}.")
        return _Storage(key, dtype, size)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
      path: the file; nothing in it is executed.

    Returns:
      Tensor name -> array, in the file's order.

    Raises:
      UserError: if the file is no legacy torch pickle, is cut short, or asks
        for anything but tensors.
    """
    with Path(path).open("rb") as file:
        try:
            if _Unpickler(file).load() != _MAGIC:
                raise UserError(f"{path} is not a legacy torch pickle.")
            for _ in range(2):  # protocol version, system information
                _Unpickler(file).load()
            tensors = _Unpickler(file).load()
            storages = {key: None for key in _Unpickler(file).load()}
            dtypes = {
                tensor.storage.key: tensor.storage.dtype
                for tensor in tensors.values()
            }
            for key in storages:
                size = int.from_bytes(file.read(8), "little")
                raw = file.read(size * dtypes[key].itemsize)
                storages[key] = np.frombuffer(raw, dtypes[key], size)
        except (pickle.UnpicklingError, EOFError, KeyError) as error:
            raise UserError(
                f"{path} is not a legacy torch pickle of tensors."
            ) from error
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is cut short.") from error
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[tensor.storage.key][tensor.offset :],
            tensor.shape,
            [s * tensor.storage.dtype.itemsize for s in tensor.strides],
        ).copy()
        for name, tensor in tensors.items()
    }
