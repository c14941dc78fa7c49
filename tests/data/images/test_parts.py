"""Files with too many parts are refused before they are opened."""

import io
import struct
import zlib

import pytest
from PIL import Image

from mixer_jax.data.images import decoding, faults, parts


def _file(kind, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, (64, 64), "red").save(file, kind, **options)
    return file.getvalue()


def _insert(content, place, part, count):
    return content[:place] + part * count + content[place:]


def _scans(count):
    """Repeats the last scan of a progressive JPEG."""
    plain = _file("jpeg", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last:-2] * count + plain[-2:]


def _chunk(kind, data=b""):
    ends = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind))
    return ends[0] + kind + data + ends[1]


def _box(kind, data):
    return struct.pack(">I4s", 8 + len(data), kind) + data


def _avif(kind, data, inside=()):
    """Returns an AVIF file with a table inserted before its other tables."""
    plain, table = _file("avif"), _box(kind, data)
    for outer in inside:
        table = _box(outer, table)
    start = struct.unpack_from(">I", plain)[0]
    size = struct.unpack_from(">I", plain, start)[0] + len(table)
    meta = struct.pack(">I", size) + plain[start + 4 : start + 12]
    return plain[:start] + meta + table + plain[start + 12 :]


# Two items, each with 65,535 empty extents.
ILOC = b"\0\0\0\0\0\0\0\2" + b"\0\1\0\0\xff\xff" + b"\0\2\0\0\xff\xff"
EXIF = b"\xff\xe1" + struct.pack(">H", 18) + b"Exif\0\0" + bytes(10)
EMPTY = b"\xff\xe5\0\2"
HIDDEN = b"\xff\xcc\0\xff" + EMPTY * 100 + bytes(1)
JPEG, PNG = _file("jpeg"), _file("png")
GIF = _file("gif")
GIF_BLOCKS = parts.after_gif_colors(13, GIF[10])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_scans(1000), "it has more than 50 scans"),
        (_insert(JPEG, 2, EXIF, 300_000), "more than 1,000 segments"),
        (_insert(JPEG, 2, EMPTY, 300_000), "more than 1,000 segments"),
        (_insert(JPEG, 2, EMPTY + b"\0", 2000), "more than 1,000 segments"),
        (_insert(JPEG, 2, HIDDEN, 100), "more than 1,000 segments"),
        (_insert(PNG, 33, _chunk(b"abCd"), 200_000), "100,000 chunks"),
        (_insert(GIF, GIF_BLOCKS, b"!\xfe\1a\0", 200_000), "100,000 blocks"),
        (_insert(GIF, GIF_BLOCKS, b"x", 200_000), "100,000 blocks"),
        (_avif(b"iloc", ILOC), "100,000 table entries"),
        (_avif(b"ipma", bytes(500_000), [b"iprp"]), "100,000 table entries"),
        (
            _avif(b"ipco", _box(b"abcd", b"") * 200_000, [b"iprp"]),
            "100,000 table entries",
        ),
    ],
    ids=[
        "scans",
        "exif",
        "empty",
        "junk",
        "hidden",
        "png",
        "gif",
        "bytes",
        "iloc",
        "ipma",
        "ipco",
    ],
)
def test_too_many_parts_are_refused(content, message):
    with pytest.raises(decoding.UnreadableImageError) as caught:
        decoding.decode(content, 8)
    assert caught.value.kind == faults.TOO_LARGE
    assert message in caught.value.reason


def test_typical_numbers_of_parts_are_accepted():
    frames = [Image.new("P", (9, 9), i) for i in range(50)]
    many = io.BytesIO()
    frames[0].save(many, "gif", save_all=True, append_images=frames[1:])
    for content in (
        _scans(10),
        _insert(JPEG, 2, b"\xff\xe2\xff\xff" + bytes(65533), 255),  # ICC
        _insert(JPEG, len(JPEG), b"\xff\xda\0\2", 2000),  # an appended video
        _insert(JPEG, 2, b"\xff", 2000),  # fill bytes
        _insert(PNG, 33, _chunk(b"abCd"), 5000),
        PNG + bytes(2_000_000),  # typical of recovered files
        _insert(GIF, GIF_BLOCKS, b"!\xfe" + b"\1a" * 5000 + b"\0", 1),
        many.getvalue(),
        _file("avif"),
    ):
        assert decoding.decode(content, 8).shape == (8, 8, 3)


def _tiff(count, big=False, order="<"):
    """Returns a TIFF of one pixel that declares `count` strips."""
    mark = b"II" if order == "<" else b"MM"
    entry = "HHQQ" if big else "HHLL"
    head = struct.pack(
        f"{order}{'HHHQ' if big else 'HL'}",
        *((43, 8, 0, 16) if big else (42, 8)),
    )
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1}
    table = b"".join(
        struct.pack(order + entry, tag, 4, count if tag == 273 else 1, value)
        for tag, value in tags.items()
    )
    return mark + head + struct.pack(order + "HQ"[big], len(tags)) + table


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_tiff_strips_are_counted_before_opening(big, order, monkeypatch):
    monkeypatch.setattr(decoding, "_open", lambda *_: 1 / 0)
    for count in (1000, 300_000):
        content = _tiff(count, big, order)
        if big and order == ">":  # Pillow reads it as a plain TIFF
            content = _tiff(count, False, order)
        with pytest.raises(faults.UnreadableImageError) as caught:
            decoding.decode(content + bytes(9_000), 8)
        refused = "200,000 table entries" in str(caught.value)
        assert refused == (count > 200_000)
        assert (caught.value.kind == faults.TOO_LARGE) == refused


def test_tiff_with_many_strips_is_accepted():
    noise = Image.effect_noise((1600, 1600), 50)
    file = io.BytesIO()
    noise.save(file, "tiff", tiffinfo={278: 1})
    assert decoding.decode(file.getvalue(), 16).shape == (16, 16, 3)
    for cut in range(0, 300, 7):
        with pytest.raises(faults.UnreadableImageError):
            decoding.decode(file.getvalue()[:cut], 16)
