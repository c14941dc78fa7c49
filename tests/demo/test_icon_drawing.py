import sys

import pytest
from PIL import Image

from mixer_jax.data.images import decoding
from mixer_jax.demo import icon_drawing
from mixer_jax.runtime.errors import UserError

BOX = {"left": 0, "top": 0, "width": 8, "height": 8}
SQUARE = '<path fill="currentColor" d="M0 0h4v4h-4z"/>'
RED = '<path fill="#f00" d="M0 0h4v4h-4z"/>'


def draw(tmp_path, *bodies, size=16, **icon):
    """Draws bodies to 0.png, 1.png ...; returns the drawings."""
    batch = [
        (icon_drawing.svg({"body": body} | icon, BOX), tmp_path / f"{k}.png")
        for k, body in enumerate(bodies)
    ]
    return list(icon_drawing.draw([batch[:2], batch[2:]], size, len(batch)))


def test_current_color_is_dark_on_white(tmp_path):
    draw(tmp_path / "new" / "folder", SQUARE)
    pixels = decoding.decode(tmp_path / "new/folder/0.png", 16)
    assert (pixels[:8, :8] == 0x22).all()
    assert (pixels[8:] == 255).all()
    assert (pixels[:, 8:] == 255).all()


def test_gray_icons_are_saved_with_one_channel(tmp_path):
    draw(tmp_path, SQUARE, RED)
    for name, mode in (("0.png", "L"), ("1.png", "RGB")):
        with Image.open(tmp_path / name) as image:
            assert image.mode == mode
    pixels = decoding.decode(tmp_path / "1.png", 16)
    assert (pixels[:8, :8] == (255, 0, 0)).all()


def test_icon_uses_its_own_box_and_keeps_its_aspect_ratio(tmp_path):
    draw(tmp_path, SQUARE, left=2, width=4)
    pixels = decoding.decode(tmp_path / "0.png", 16)
    # The icon is 4 x 8; the square's right half fills a quarter of it.
    assert (pixels[:8, 4:8] == 0x22).all()
    assert (pixels == 255).all(-1).mean() == 1 - 32 / 256


def test_blank_and_broken_icons_are_not_written(tmp_path):
    white = SQUARE.replace("currentColor", "white")
    pale = SQUARE.replace("currentColor", "#f4f4f4")
    drawn = draw(tmp_path, SQUARE, white, pale, "", "<path d=", RED + "</g>")
    assert [drawing.digest != b"" for drawing in drawn] == [True] + 5 * [False]
    assert [drawing.fault != "" for drawing in drawn] == 4 * [False] + 2 * [
        True
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_equal_pixels_have_equal_digests(tmp_path):
    moved = SQUARE.replace("M0 0", "M1 0")
    again = f"<g>{SQUARE}</g>"
    first, second, third = draw(tmp_path, SQUARE, again, moved)
    assert first == second
    assert first != third


def test_intact_files_of_the_same_size_are_kept(tmp_path):
    bodies = [SQUARE, RED, SQUARE + RED]
    first = draw(tmp_path, *bodies)
    files = [tmp_path / f"{k}.png" for k in range(3)]
    files[1].write_bytes(files[1].read_bytes()[:-30])
    files[2].write_bytes(b"")
    before = [file.stat().st_mtime_ns for file in files]
    assert draw(tmp_path, *bodies) == first
    after = [file.stat().st_mtime_ns for file in files]
    assert after[0] == before[0]
    assert after[1] > before[1]
    assert after[2] > before[2]
    draw(tmp_path, *bodies, size=24)
    for file in files:
        with Image.open(file) as image:
            assert image.size == (24, 24)


def test_file_key_depends_on_the_drawing():
    keys = [
        icon_drawing.file_key(icon_drawing.svg({"body": body} | icon, BOX))
        for body, icon in ((SQUARE, {}), (RED, {}), (SQUARE, {"width": 9}))
    ]
    assert len(set(keys)) == 3
    assert all(len(key) == 8 for key in keys)


def test_processes_yield_the_same_drawings_in_order(tmp_path, monkeypatch):
    bodies = [SQUARE.replace("h4", f"h{k}") for k in range(1, 8)] + [""]
    here = draw(tmp_path / "here", *bodies)
    monkeypatch.setattr(icon_drawing, "_FEW", 0)
    monkeypatch.setattr(icon_drawing, "_CHUNK", 3)
    assert draw(tmp_path / "there", *bodies) == here
    for path in (tmp_path / "here").iterdir():
        there = tmp_path / "there" / path.name
        assert there.read_bytes() == path.read_bytes()


def test_missing_renderer_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"resvg_py.*mixer_jax\[demo\]"):
        draw(tmp_path, SQUARE)
