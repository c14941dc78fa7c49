"""Classification of broken files."""

import base64
import gzip
import io
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixer_jax.data.images import decoding, faults
from mixer_jax.runtime.errors import UserError
from tests import broken_files


@pytest.mark.parametrize("kind", faults.KINDS)
def test_every_kind_of_fault_is_recognized(tmp_path, kind):
    for number in range(12):
        path = tmp_path / broken_files.write(tmp_path, kind, number)
        with pytest.raises(UserError) as caught:
            decoding.decode(path, 32, broken_files.ALLOWED)
        assert caught.value.kind == kind, (number, caught.value)
        assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        *((name, {}) for name in broken_files.FORMATS),
        ("jpeg", {"progressive": True}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tiff", {"compression": "jpeg"}),
    ],
)
@pytest.mark.parametrize("size", [8, 32])
def test_cut_file_is_truncated_or_has_all_pixels(format_, options, size):
    content = broken_files.encode(broken_files.noise(40), format_, **options)
    whole = decoding.decode(content, size)
    places = np.linspace(16, len(content) - 1, 60).astype(int)
    kinds = []
    for place in [*places, *range(len(content) - 24, len(content))]:
        try:
            pixels = decoding.decode(content[:place], size)
        except faults.UnreadableImageError as error:
            kinds.append(error.kind)
        else:
            np.testing.assert_array_equal(pixels, whole, f"cut at {place}")
    assert len(kinds) > 50
    assert set(kinds) == {faults.TRUNCATED}


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_cut_jpeg_with_a_thumbnail_is_truncated(options):
    thumbnail = broken_files.encode(broken_files.noise(16), "jpeg")
    content = broken_files.encode(
        broken_files.noise(200), "jpeg", comment=thumbnail, **options
    )
    assert b"\xff\xd9" in content[: len(content) // 2]
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(content[: len(content) // 2], 16)
    assert caught.value.kind == faults.TRUNCATED


def test_damage_before_the_end_is_corrupt():
    content = bytearray(broken_files.encode(broken_files.noise(64), "png"))
    content[content.index(b"IDAT") + 4] ^= 0xFF
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(bytes(content), 16)
    assert caught.value.kind == faults.CORRUPT


def test_floating_point_pixels_are_unsupported():
    image = Image.fromarray(np.ones((4, 4), np.float32))
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(broken_files.encode(image, "tiff"), 4)
    assert caught.value.kind == faults.UNSUPPORTED


def test_errors_can_be_pickled():
    error = faults.UnreadableImageError("a.png: gone.", faults.MISSING)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kind) == ("a.png: gone.", faults.MISSING)


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"x")
    return file.getvalue()


PNG = broken_files.encode(broken_files.noise(8), "png")


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"", "an empty file"),
        (PNG, "a PNG picture"),
        (broken_files.encode(broken_files.noise(8), "tiff"), "a TIFF picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC (HEIF) picture"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG picture"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\n<!DOCTYPE html>\n<p>", "an HTML page"),
        (b"<html><body><svg></svg></body></html>", "an HTML page"),
        (b'{"image": "x"}', "JSON"),
        (b"data:image/png;base64,iVBORw0KGgo", "a data: URL"),
        (base64.b64encode(PNG), "base64 text instead of the PNG"),
        (base64.encodebytes(PNG), "base64 text instead of the PNG"),
        (gzip.compress(PNG), "gzip-compressed"),
        (zipped(), "a ZIP archive"),
        (b"\0\0\0\x18ftypisom\0\0\2\0", "an MP4"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a CR3 raw picture"),
        (b"\x1aE\xdf\xa3\1\0", "WebM video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"--x\r\nContent-Disposition: form-data\r\n", "a form"),
        (b"--x\r\ncontent-disposition: form-data\r\n\r\n" + PNG, "a form"),
        (b"--x\r\nContent-Type: image/png\r\n\r\n" + PNG, "a form"),
        ("Grüße an alle".encode(), "plain text"),
        (b"BMW, a maker of cars", "plain text"),
        (b"\0\1\2\3", "unknown format"),
    ],
)
def test_describe_names_the_format(content, phrase):
    assert phrase in faults.describe(content)
    if "picture" not in phrase or re.search("SVG|HEIC|CR3", phrase):
        with pytest.raises(faults.UnreadableImageError) as caught:
            decoding.decode(content, 8)
        assert caught.value.kind in (
            faults.EMPTY,
            faults.NOT_AN_IMAGE,
            faults.UNSUPPORTED,
        )


def test_only_accepted_formats_are_opened():
    content = broken_files.encode(broken_files.noise(8), "tiff")
    decoding.decode(content, 8)
    with pytest.raises(faults.UnreadableImageError, match="TIFF") as caught:
        decoding.decode(content, 8, formats=("PNG", "JPEG"))
    assert caught.value.kind == faults.UNSUPPORTED


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text().map(str.encode)))
def test_describe_accepts_any_bytes(content):
    assert faults.describe(content)
    assert "\n" not in faults.describe(content)


@pytest.mark.parametrize("start", [b"II+\0", b"MM\0+"])
def test_bigtiff_is_a_tiff(start):
    content = start + bytes(99)
    assert faults.describe(content) == "a TIFF picture"
    assert faults.of_content(content, OSError("bad")) == faults.CORRUPT


def test_tiff_with_lists_of_unequal_lengths_is_corrupt():
    content = bytearray(broken_files.encode(broken_files.noise(8), "tiff"))
    place = content.index(struct.pack("<HH", 273, 4))  # StripOffsets
    struct.pack_into("<I", content, place + 4, 0)
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(bytes(content), 8)
    assert caught.value.kind == faults.CORRUPT


@pytest.mark.parametrize("kind", ["dds", "qoi", "sgi"])
def test_cut_file_of_an_uncommon_format_is_truncated_or_corrupt(kind):
    content = broken_files.encode(broken_files.noise(32), kind)
    assert faults.describe(content).endswith(f"{kind.upper()} picture")
    with pytest.raises(faults.UnreadableImageError) as caught:
        decoding.decode(content[: len(content) // 2], 8)
    assert caught.value.kind in (faults.TRUNCATED, faults.CORRUPT)
