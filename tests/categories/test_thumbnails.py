import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mixer_jax.categories import thumbnails
from mixer_jax.errors import UserError
from tests import broken_files


def test_a_picture_is_scaled_on_white(tmp_path):
    path = tmp_path / "a.png"
    image = Image.new("RGBA", (64, 32), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 32))
    image.save(path)
    pixels = thumbnails.read(path, 2).reshape(2, 2, 3)
    expected = [[255, 0, 0], [255, 255, 255]]
    np.testing.assert_array_equal(pixels, [expected, expected])


@pytest.mark.parametrize("size", [(13_000, 13_000), (30_000, 30_000)])
def test_a_huge_picture_is_said_in_a_sentence(tmp_path, size):
    path = tmp_path / "huge.png"
    data = broken_files.png_chunk(b"IDAT", zlib.compress(bytes(99)))
    path.write_bytes(broken_files.png_header(*size) + data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"huge\.png: the file cannot"):
            thumbnails.read(path, 16)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    path = tmp_path / "a.png"
    for content in (b"", b"text", struct.pack("<I", 1) * 99):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.png: .*remove its row"):
            thumbnails.read(path, 16)
    with pytest.raises(FileNotFoundError):
        thumbnails.read(tmp_path / "b.png", 16)
