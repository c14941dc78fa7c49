"""A tiny package of furniture, and a renderer that does not need VTK."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mixer_jax.demo.furniture import cutouts
from mixer_jax.demo.furniture.models import rendering
from mixer_jax.demo.furniture.scenes import backgrounds

CUBE = """\
mtllib {name}.mtl
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
usemtl paint
f 1 2
f 1 4 3 2
f 5 6 7 8
f 1 5 8 4
f 2 3 7 6
f 4 8 7 3
f 1 2 6 5
"""
PAINT = "newmtl paint\nKd {} {} {}\nd 1\n"
HEADER = """\
# Comments have an = as well.
id=Somewhere#{name}
name={name} catalog
license=License of {name}
"""
TERMS = "LICENSE\r\n\r\nThe terms of {name}.  \r\n"


def _png(color, side=20):
    content = io.BytesIO()
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    picture.paste(color, (4, 6, 16, 20))
    picture.save(content, "png")
    return content.getvalue()


def write_catalog(path, products, header=HEADER):
    """Writes a catalog of cubes.

    Args:
      path: the .sh3f file, in an existing folder.
      products: titles, or dictionaries of a product's fields, by name.
      header: the first lines of the properties file.
    """
    name, lines = path.stem, [header.format(name=path.stem)]
    with zipfile.ZipFile(path, "w") as archive:
        for number, (key, given) in enumerate(products.items(), 1):
            given = {"name": given} if isinstance(given, str) else given
            fields = {
                "id": f"{name}#{key}",
                "category": "Room",
                "icon": f"/{name}/{key}.png",
                "model": f"/{name}/{key}/{key}.obj",
                "width": "40",
                "height": "60.5",
                "depth": "20",
                "creator": "Ann",
            } | given
            lines += [f"{k}#{number}={v}" for k, v in fields.items()]
            color = (50 + 7 * number, 250 - 7 * number, 9 * number)
            paint = PAINT.format(*(round(c / 255, 3) for c in color))
            archive.writestr(f"{name}/{key}.png", _png(color))
            archive.writestr(f"{name}/{key}/", "")
            archive.writestr(f"{name}/{key}/{key}.obj", CUBE.format(name=key))
            archive.writestr(f"{name}/{key}/{key}.mtl", paint)
        text = "\n".join(lines)
        archive.writestr(
            "PluginFurnitureCatalog.properties", text.encode("latin-1")
        )
        archive.writestr("LICENSE.TXT", TERMS.format(name=name))


# Fifteen stems, so that all folds have products; four have a variant.
WORDS = (
    *("alpine", "bottle", "candle", "drawer", "easel", "fridge", "globe"),
    *("hammer", "iron", "jar", "kettle", "ladder", "mirror", "needle", "oven"),
)


@pytest.fixture
def furniture_package(tmp_path):
    """A folder with two catalogs of 19 products."""
    folder = tmp_path / "package" / "usr" / "share"
    folder.mkdir(parents=True)
    write_catalog(folder / "First.sh3f", {f"{w}1": w.title() for w in WORDS})
    write_catalog(
        folder / "Second.sh3f", {f"{w}2": f"Small {w}" for w in WORDS[:4]}
    )
    return tmp_path / "package"


@pytest.fixture
def catalog_writer():
    """The function that writes a catalog; see `write_catalog`."""
    return write_catalog


class FakeScene:
    """Draws a rectangle whose color and place depend on model and shot."""

    def __init__(self, parts, pixels):
        self._color, self._pixels = parts[0].material.color, pixels

    def render(self, shot):
        picture = np.zeros((self._pixels, self._pixels, 4), np.uint8)
        side = self._pixels // 3 + int(abs(shot.azimuth))
        color = 255 * np.array(self._color) * np.array(shot.light)
        picture[9 : 9 + side, 20:-40, :3] = color
        picture[9 : 9 + side, 20:-40, 3] = 255
        return picture

    def close(self):
        pass


@pytest.fixture
def fake_renderer(monkeypatch):
    """Replaces VTK, in this process."""
    monkeypatch.setattr(rendering, "Scene", FakeScene)
    monkeypatch.setattr(rendering, "check", lambda: None)
    monkeypatch.setattr(cutouts, "_FEW", 1000)


@pytest.fixture
def plain_backgrounds(monkeypatch):
    """Replaces the backgrounds, which take most of the time, with gray."""
    monkeypatch.setattr(
        backgrounds,
        "draw",
        lambda rng, size: np.full((size, size, 3), 0.5, np.float32),
    )
