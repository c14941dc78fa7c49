import contextlib
import importlib.util
import sys

import numpy as np
import pytest

from mixer_jax.demo.furniture import catalog
from mixer_jax.demo.furniture.models import geometry, loading, poses, rendering
from mixer_jax.demo.furniture.shots import Shot
from mixer_jax.runtime.errors import UserError

FRONT = Shot(0, 0, 0, 30, (1.0, 1.0, 1.0), 0.5)
UPRIGHT = (1, 0, 0, 0, 1, 0, 0, 0, 1)
needs_vtk = pytest.mark.skipif(
    importlib.util.find_spec("vtkmodules") is None,
    reason="VTK is not installed; see the extra `furniture`",
)


@pytest.fixture
def render(furniture_package):
    """Renders the cube of the tiny package, or another mesh."""

    def render(shot=FRONT, rotation=UPRIGHT, size=(10, 10, 10), **keys):
        path = furniture_package / "usr/share/First.sh3f"
        (part,) = loading.load(catalog.read(path).products[0])
        obj = keys.pop("obj", None)
        if obj is not None:
            (mesh,) = geometry.read(obj).values()
            part = part._replace(mesh=mesh)
        part = part._replace(material=part.material._replace(**keys))
        scene = rendering.Scene(poses.upright([part], rotation, size), 96)
        with contextlib.closing(scene):
            return scene.render(shot)

    return render


def extent(picture):
    """Returns height and width of what a picture shows."""
    rows, columns = np.nonzero(picture[..., 3] > 128)
    return np.ptp(rows) + 1, np.ptp(columns) + 1


def test_missing_renderer_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vtk.*mixer_jax\[furniture\]"):
        rendering.check()


def test_renderer_is_imported_only_when_it_is_used():
    assert "vtk" not in rendering.__dict__
    if importlib.util.find_spec("vtkmodules") is None:
        assert not any(name.startswith("vtk") for name in sys.modules)


@needs_vtk
def test_cube_is_rendered_in_its_color_on_nothing(render):
    picture = render()
    assert picture.shape == (96, 96, 4)
    assert picture.dtype == np.uint8
    assert (picture[0, :, 3] == 0).all()
    red, green, blue, alpha = picture[48, 48]
    assert alpha == 255
    assert green > 2 * red > 2 * blue  # its paint is (57, 243, 9)
    height, width = extent(picture)
    assert height == width


@needs_vtk
def test_model_has_its_size(render):
    height, width = extent(render(size=(10, 20, 10)))
    assert 1.8 < height / width < 2.2


TRIANGLE = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


@needs_vtk
def test_front_and_top_are_where_the_camera_expects_them(render):
    """The right angle of the triangle is at the lower left."""
    picture = render(obj=TRIANGLE, size=(10, 10, 0.1))
    rows, columns = np.nonzero(picture[..., 3] > 128)
    assert rows.mean() > 48 > columns.mean()


@needs_vtk
def test_concave_polygons_are_not_filled(render):
    arrow = b"v 0 0 0\nv 2 0 0\nv 0.2 0.2 0\nv 0 2 0\nf 1 2 3 4\n"
    picture = render(obj=arrow, size=(10, 10, 0.1))
    whole = render(obj=TRIANGLE, size=(10, 10, 0.1))
    shares = [(one[..., 3] > 128).mean() for one in (picture, whole)]
    assert shares[0] < 0.3 * shares[1]


@needs_vtk
def test_texture_is_upright_and_not_multiplied_by_the_color(render):
    texture = np.full((8, 8, 4), 255, np.uint8)
    texture[:4, :, 1:3] = 0  # the upper half is red
    texture[4:, :, :2] = 0  # the lower half is blue
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    place = b"vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3 4/4\n"
    keys = {"size": (10, 10, 0.1), "texture": texture, "color": (0, 1, 0)}
    picture = render(obj=square + place, **keys)
    assert picture[30, 48, :3].argmax() == 0
    assert picture[66, 48, :3].argmax() == 2
    assert picture[30, 48, 1] < 10
    # Without coordinates, there is nothing but the color.
    picture = render(obj=square + b"f 1 2 3 4\n", **keys)
    assert picture[30, 48, :3].argmax() == 1


@needs_vtk
def test_transparent_parts_of_a_texture_are_invisible(render):
    texture = np.full((8, 8, 4), 255, np.uint8)
    texture[:, :4, 3] = 0
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    place = b"vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3 4/4\n"
    picture = render(obj=square + place, size=(10, 10, 0.1), texture=texture)
    assert picture[48, 40, 3] == 0
    assert picture[48, 56, 3] == 255


@needs_vtk
def test_camera_moves_around_the_product(render):
    flat = extent(render(size=(20, 10, 1)))
    side = extent(render(FRONT._replace(azimuth=80), size=(20, 10, 1)))
    assert side[1] < 0.4 * flat[1]
    low = extent(render(size=(20, 1, 20)))
    high = extent(render(FRONT._replace(elevation=60), size=(20, 1, 20)))
    assert high[0] > 3 * low[0]
    # Camera and light from the right, so the side is lit and the front is not.
    right = FRONT._replace(azimuth=45, light_azimuth=90, fill=0.0)
    row = render(right)[48, :, 1].astype(int)
    assert row[60] > row[36] + 20


@needs_vtk
def test_light_has_a_color(render):
    shot = FRONT._replace(light=(1, 0.5, 0.5), fill=0.1)
    picture = render(shot, color=(0.8, 0.8, 0.8))
    red, green, blue, _ = picture[48, 48].astype(int)
    assert red > green + 20
    assert abs(green - blue) < 3


@needs_vtk
def test_glass_is_transparent(render):
    picture = render(color=(1, 1, 1), opacity=0.3)
    assert 50 < picture[48, 48, 3] < 200
    # Colors are not darkened by the transparency.
    assert picture[48, 48, :3].min() > 100
