import pickle
import struct
import sys
import types

import numpy as np
import pytest

from mixer_jax.errors import UserError
from mixer_jax.models import torch_pickle

MAGIC = 0x1950A86A20F9469CFC6C


class _Persistent(pickle.Pickler):
    """Writes storages the way torch does: by persistent id."""

    def persistent_id(self, obj):
        return obj if isinstance(obj, tuple) and "storage" in obj[:1] else None


class _Tensor:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the legacy format without torch, under torch's names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*_):
        raise AssertionError("the file must not run what it names")

    rebuild.__name__ = rebuild.__qualname__ = "_rebuild_tensor_v2"
    rebuild.__module__ = "torch._utils"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def tensor(offset, shape, strides):
        storage = ("storage", torch.FloatStorage, "7", "cpu", 6, None)
        return _Tensor(storage, offset, shape, strides, False, None)

    def write(state=None, cut=0):
        path = tmp_path / "weights.pth"
        with path.open("wb") as file:
            for value in (MAGIC, 1001, {"little_endian": True}):
                pickle.dump(value, file, protocol=2)
            state = state or {
                "a": tensor(0, (2, 3), (3, 1)),
                "b": tensor(1, (2, 2), (1, 3)),
            }
            _Persistent(file, protocol=2).dump(state)
            pickle.dump(["7"], file, protocol=2)
            file.write(struct.pack("<q", 6))
            raw = np.arange(6, dtype=np.float32).tobytes()
            file.write(raw[: len(raw) - cut])
        return path

    return write


def test_reads_tensors_with_offsets_and_strides(write):
    tensors = torch_pickle.read(write())
    whole = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(tensors["a"], whole)
    np.testing.assert_array_equal(tensors["b"], whole[:, 1:].T)
    assert tensors["a"].dtype == np.float32


class _Attack:
    def __reduce__(self):
        return print, ("arbitrary code",)


def test_refuses_anything_but_tensors(write, capsys):
    path = write({"a": _Attack()})
    with pytest.raises(UserError, match=r"print, .*not trusted"):
        torch_pickle.read(path)
    assert capsys.readouterr().out == ""


def test_says_what_is_wrong_with_the_file(write, tmp_path):
    with pytest.raises(UserError, match="cut short"):
        torch_pickle.read(write(cut=4))
    other = tmp_path / "other.pth"
    other.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(UserError, match="not a legacy torch pickle"):
        torch_pickle.read(other)
    other.write_bytes(pickle.dumps(3))
    with pytest.raises(UserError, match="not a legacy torch pickle"):
        torch_pickle.read(other)
