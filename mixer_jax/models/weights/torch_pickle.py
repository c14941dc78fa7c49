"""Reads tensors from files written by `torch.save`, without torch.

The format is a zip file: `NAME/data.pkl` holds the object, with one persistent
ID per storage, and `NAME/data/KEY` holds the raw elements of a storage. The
legacy format consists of four pickles (magic number, protocol version, system
information, object), a pickled list of storage keys and, for each key, an
int64 element count and the raw elements.

Unpickling can run arbitrary code, so only the few names that a state dict needs
are allowed; types of this module replace those of torch.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mixer_jax.runtime.errors import UserError

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
            f"the file refers to {module}.{name}, which a state dict of "
            "tensors does not need; refusing to load it."
        )

    def persistent_load(self, pid):
        kind, dtype, key, _, size = pid[:5]
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise UserError(f"the file contains an unknown object {pid}.")
        return _Storage(key, dtype, size)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
      path: path of the file; no code in the file is executed.

    Returns:
      Arrays by tensor name, in the order of the file.

    Raises:
      UserError: if the file is not a torch pickle, is truncated, or refers
        to anything but tensors.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                tensors, storages = _read_zip(file)
        else:
            with path.open("rb") as file:
                tensors, storages = _read_legacy(file)
        return {
            name: _view(storages[tensor.storage.key], tensor).copy()
            for name, tensor in tensors.items()
        }
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except ValueError as error:
        raise UserError(f"{path} is truncated.") from error
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        KeyError,
        AttributeError,
    ) as error:
        raise UserError(f"{path} is not a torch pickle of tensors.") from error


_Read = tuple[dict[str, _Tensor], dict[str, np.ndarray]]


def _read_zip(file: zipfile.ZipFile) -> _Read:
    (index,) = (n for n in file.namelist() if n.endswith("/data.pkl"))
    tensors = _Unpickler(io.BytesIO(file.read(index))).load()
    storages = {}
    for tensor in tensors.values():
        key, dtype, size = tensor.storage
        if key not in storages:
            raw = file.read(f"{index.removesuffix('.pkl')}/{key}")
            storages[key] = np.frombuffer(raw, dtype, size)
    return tensors, storages


def _read_legacy(file: BinaryIO) -> _Read:
    if _Unpickler(file).load() != _MAGIC:
        raise UserError("not a torch pickle.")
    for _ in range(2):  # skip protocol version and system information
        _Unpickler(file).load()
    tensors = _Unpickler(file).load()
    keys = _Unpickler(file).load()
    dtypes = {t.storage.key: t.storage.dtype for t in tensors.values()}
    storages = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        raw = file.read(size * dtypes[key].itemsize)
        storages[key] = np.frombuffer(raw, dtypes[key], size)
    return tensors, storages


def _view(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """Returns a tensor as a view of its storage, after checking the bounds."""
    _, offset, shape, strides = tensor
    numbers = (offset, *shape, *strides)
    if min(numbers) < 0 or len(shape) != len(strides):
        raise UserError("a tensor has an invalid offset, shape or strides.")
    steps = (s * (n - 1) for s, n in zip(strides, shape, strict=True))
    if math.prod(shape) and offset + sum(steps) >= len(storage):
        raise UserError("a tensor extends beyond the end of its data.")
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [s * storage.itemsize for s in strides]
    )
