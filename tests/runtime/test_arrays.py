"""Array files, intact and damaged, and normalized rows."""

import numpy as np
import pytest

from mixer_jax.runtime import arrays

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("mapped", [False, True])
def test_saved_array_is_read_back(tmp_path, mapped):
    np.save(tmp_path / "a.npy", ARRAY)
    found = arrays.read(tmp_path / "a.npy", mapped=mapped)
    np.testing.assert_array_equal(found, ARRAY)


def _damaged(tmp_path):
    """Yields the path of a file, damaged in a different way each time."""
    path = tmp_path / "a.npy"
    np.save(path, ARRAY)
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[:-1],
        whole.replace(b"{", b"(", 1),
        whole.replace(b"(3, 4)", b"(3, 4 "),
        whole.replace(b"(3, 4), }" + b" " * 15, b"(3000000000000000, 4), }"),
        whole.replace(b"(3, 4), }" + b" " * 22, b"(" + b"9" * 22 + b", 4), }"),
        b"\xff" + whole,
    ):
        assert content != whole
        path.write_bytes(content)
        yield path
    np.save(path, np.array([object], object), allow_pickle=True)
    yield path
    with open(path, "wb") as file:
        np.savez(file, ARRAY)
    yield path


@pytest.mark.parametrize("mapped", [False, True])
def test_damaged_files_raise_a_value_error(tmp_path, mapped):
    for path in _damaged(tmp_path):
        with pytest.raises(ValueError, match=r"\w"):
            arrays.read(path, mapped=mapped)
    with pytest.raises(OSError, match="none"):
        arrays.read(tmp_path / "none.npy", mapped=mapped)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_flipped_bits_raise_no_other_error(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    if suffix == ".npy":
        np.save(path, np.ones((3, 4), np.float32))
    else:
        np.savez(path, one=np.ones((3, 4), np.float32))
    content = path.read_bytes()
    detected = 0
    for byte in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[byte] ^= 4
        path.write_bytes(flipped)
        try:
            with arrays.reading(path) as file:
                read = np.load(file)
                if suffix == ".npz":
                    read["one"]
        except arrays.DamagedError:
            detected += 1
    assert detected > 5


def test_missing_file_is_not_a_damaged_file(tmp_path):
    path = tmp_path / "file.npy"
    with pytest.raises(FileNotFoundError), arrays.reading(path) as file:
        np.load(file)


def test_rows_have_unit_length_in_float32():
    rows = np.random.default_rng(0).normal(size=(5, 3)) * 1e4
    unit = arrays.normalize(rows)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.cross(unit, rows), 0, atol=2e-3)


def test_zero_rows_stay_zero():
    np.testing.assert_array_equal(arrays.normalize(np.zeros((2, 3))), 0)


def test_short_rows_are_divided_by_the_minimum_length():
    short = arrays.normalize(np.array([[3e-7, 4e-7]]), min_length=1e-6)
    np.testing.assert_allclose(short, [[0.3, 0.4]], rtol=1e-6)


def test_no_rows_give_no_rows():
    assert arrays.normalize(np.zeros((0, 4))).shape == (0, 4)
