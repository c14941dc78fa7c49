"""A damaged file of arrays is said to be one, whatever NumPy raises."""

import numpy as np
import pytest

from mixer_jax.runtime import arrays


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damage_is_said_or_harmless(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    if suffix == ".npy":
        np.save(path, np.ones((3, 4), np.float32))
    else:
        np.savez(path, one=np.ones((3, 4), np.float32))
    content = path.read_bytes()
    said = 0
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
            said += 1
    assert said > 5


def test_a_missing_file_is_not_damaged(tmp_path):
    path = tmp_path / "file.npy"
    with pytest.raises(FileNotFoundError), arrays.reading(path) as file:
        np.load(file)
