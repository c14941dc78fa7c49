import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from mixer_jax.models.weights import torch_pickle
from mixer_jax.runtime.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C


class _Persistent(pickle.Pickler):
    """Writes storages as torch does, by persistent ID."""

    def persistent_id(self, obj):
        return obj if isinstance(obj, tuple) and "storage" in obj[:1] else None


class _Tensor:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the legacy format with torch's names, but without torch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*_):
        raise AssertionError("loading a file must not call this")

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

    write.tensor = tensor
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
    with pytest.raises(UserError, match=r"print, .*refusing to load it"):
        torch_pickle.read(path)
    assert capsys.readouterr().out == ""


def test_broken_files_raise_an_error(write, tmp_path):
    with pytest.raises(UserError, match="is truncated"):
        torch_pickle.read(write(cut=4))
    other = tmp_path / "other.pth"
    other.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(UserError, match="not a torch pickle"):
        torch_pickle.read(other)
    other.write_bytes(pickle.dumps(3))
    with pytest.raises(UserError, match="not a torch pickle"):
        torch_pickle.read(other)


def test_reads_files_written_by_torch(tmp_path):
    torch = pytest.importorskip("torch")
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {"whole": whole, "part": whole[1:, 2:].T, "none": whole[:0]}
    state["count"] = torch.tensor(7)
    for legacy in (False, True):
        path = tmp_path / "weights.bin"
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
        tensors = torch_pickle.read(path)
        assert list(tensors) == list(state)
        for name, tensor in state.items():
            np.testing.assert_array_equal(tensors[name], tensor.numpy())
            assert tensors[name].dtype == tensor.numpy().dtype


@pytest.mark.parametrize(
    "view", [(0, (2, 3), (4, 1)), (4, (3,), (1,)), (0, (2,), (-1,))]
)
def test_tensors_outside_their_data_are_refused(write, view):
    path = write({"a": write.tensor(*view)})
    with pytest.raises(
        UserError, match=r"a tensor (has an invalid|extends beyond)"
    ):
        torch_pickle.read(path)


def test_truncated_or_unrelated_zip_files_raise_an_error(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.zeros(10)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"weights\.bin is not a torch pickle"):
        torch_pickle.read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "nothing")
    with pytest.raises(UserError, match=r"weights\.bin is"):
        torch_pickle.read(path)
