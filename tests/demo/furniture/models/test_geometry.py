import numpy as np
import pytest

from mixer_jax.demo.furniture.models import geometry

SQUARE = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def corners(mesh):
    """Returns the points of each face."""
    ends = zip(mesh.offsets[:-1], mesh.offsets[1:], strict=True)
    return [mesh.points[mesh.corners[a:b]].tolist() for a, b in ends]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_polygons_of_each_material_are_read(end):
    text = SQUARE + b"f 1 2 3 4\nusemtl 1\n f 3\t2  1 \nusemtl dark  wood\n"
    text += b"f 1 3 4\nusemtl 1\nf 4 3 2\n# f 1 2 3\ng f 1 2\nusemtl unused\n"
    meshes = geometry.read(text.replace(b"\n", end))
    assert list(meshes) == ["", "1", "dark  wood"]
    a, b, c, d = [0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]
    assert corners(meshes[""]) == [[a, b, c, d]]
    assert corners(meshes["1"]) == [[c, b, a], [d, c, b]]
    assert corners(meshes["dark  wood"]) == [[a, c, d]]
    assert meshes["1"].coordinates is None
    assert meshes["1"].normals is None
    assert meshes["1"].points.dtype == np.float32


def test_faces_of_one_or_two_corners_are_left_out():
    (mesh,) = geometry.read(SQUARE + b"f 1 2\nf 3\nf\nf 2 3 4\n").values()
    assert corners(mesh) == [[[1, 0, 0], [1, 1, 0], [0, 1, 0]]]
    assert geometry.read(SQUARE + b"f 1 2\n") == {}


def test_texture_coordinates_may_be_missing_in_some_faces():
    text = SQUARE + b"vt 0.5 0.25 0\nvt 1 1\nf 1/1 2/2 3\nf 1 2 4/1\n"
    (mesh,) = geometry.read(text).values()
    found = {
        (*point.tolist(), *place.tolist())
        for point, place in zip(mesh.points, mesh.coordinates, strict=True)
    }
    assert found == {
        (0, 0, 0, 0.5, 0.25),
        (1, 0, 0, 1, 1),
        (1, 1, 0, 0, 0),
        (0, 0, 0, 0, 0),
        (1, 0, 0, 0, 0),
        (0, 1, 0, 0.5, 0.25),
    }
    assert corners(mesh)[1] == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_normals_are_used_if_all_corners_have_one():
    text = SQUARE + b"vt 0 0\nvn 0 0 1\nvn 0 1 0\n"
    (mesh,) = geometry.read(text + b"f 1//1 2//1 3//2\n").values()
    assert mesh.normals.tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 0]]
    (mesh,) = geometry.read(text + b"f 1/1/1 2/1/2 3/1/2\n").values()
    assert mesh.normals[1].tolist() == [0, 1, 0]
    assert mesh.coordinates.shape == (3, 2)
    (mesh,) = geometry.read(text + b"f 1//1 2//1 3\n").values()
    assert mesh.normals is None


def test_points_are_shared_by_faces():
    (mesh,) = geometry.read(SQUARE + b"f 1 2 3\nf 1 3 4\n").values()
    assert len(mesh.points) == 4
    assert mesh.corners.tolist() == [0, 1, 2, 0, 2, 3]
    assert mesh.offsets.tolist() == [0, 3, 6]


def test_negative_indices_count_from_the_end():
    (mesh,) = geometry.read(SQUARE + b"f -4 -3 -1\n").values()
    assert corners(mesh) == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"f 1 2 5\n", "a face has no v 5"),
        (b"f 1 2 -9\n", "a face has no v"),
        (b"f 1/1 2/1 3/1\n", "a face has no vt 1"),
        (b"v 1 2\n", "a line v has fewer than 3 cells"),
        (b"v 1 2 x\n", "could not convert"),
        (b"f 1 2 x\n", "invalid literal"),
    ],
)
def test_invalid_line_is_reported(lines, message):
    with pytest.raises(ValueError, match=message):
        geometry.read(SQUARE + lines)
