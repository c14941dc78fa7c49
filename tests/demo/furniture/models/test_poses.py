import numpy as np
import pytest

from mixer_jax.demo.furniture.models import geometry, loading, poses
from mixer_jax.demo.furniture.models.materials import Material

UPRIGHT = (1, 0, 0, 0, 1, 0, 0, 0, 1)
BOX = b"v 1 1 1\nv 3 1 1\nv 1 5 1\nv 1 1 9\n"


def parts(text=BOX + b"usemtl a\nf 1 2 3\nusemtl b\nf 1 3 4\n"):
    return [
        loading.Part(mesh, Material()) for mesh in geometry.read(text).values()
    ]


def bounds(placed):
    points = np.concatenate([part.mesh.points for part in placed])
    return points.min(0), points.max(0)


def test_model_is_centered_and_has_its_size():
    low, high = bounds(poses.upright(parts(), UPRIGHT, (10, 20, 30)))
    np.testing.assert_allclose(high, (5, 10, 15))
    np.testing.assert_allclose(low, (-5, -10, -15))


def test_model_is_turned_before_it_is_scaled():
    turn = (0, 0, 1, 1, 0, 0, 0, 1, 0)  # z becomes x, x becomes y
    placed = poses.upright(parts(), turn, (8, 2, 4))
    first = placed[0].mesh.points  # (1, 1, 1), (3, 1, 1) and (1, 5, 1)
    np.testing.assert_allclose(first[1] - first[0], (0, 2, 0), atol=1e-6)
    np.testing.assert_allclose(first[2] - first[0], (0, 0, 4), atol=1e-6)


def test_points_without_faces_do_not_count():
    text = BOX + b"v 99 99 99\nf 1 2 3\nf 1 3 4\n"
    low, high = bounds(poses.upright(parts(text), UPRIGHT, (2, 4, 8)))
    np.testing.assert_allclose(high - low, (2, 4, 8))


def test_normals_stay_perpendicular():
    text = b"v 0 0 0\nv 1 1 0\nv 0 0 1\nvn 0.6 -0.6 0\nf 1//1 2//1 3//1\n"
    ((mesh, _),) = poses.upright(parts(text), UPRIGHT, (1, 3, 1))
    first, second, third = mesh.points
    for side in (second - first, third - first):
        np.testing.assert_allclose(mesh.normals @ side, 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, 1e-6)


@pytest.mark.parametrize(
    ("extent", "size", "scale"),
    [
        ((1, 2, 4), (10, 20, 40), (10, 10, 10)),
        ((1, 2, 4), (10, 10, 10), (10, 5, 2.5)),
        ((2, 0, 4), (10, 1, 40), (5, 10, 10)),  # a carpet
    ],
)
def test_axes_without_extent_get_the_largest_factor(extent, size, scale):
    found = poses.scale_to(np.array(extent, float), np.array(size))
    np.testing.assert_allclose(found, scale)


def test_radius_is_that_of_the_farthest_point():
    placed = poses.upright(parts(), UPRIGHT, (2, 4, 8))
    assert poses.radius(placed) == pytest.approx(21**0.5)


@pytest.mark.parametrize("text", [b"v 1 1 1\n", b"v 1 1 nan\n"])
def test_model_without_extent_is_unusable(text):
    with pytest.raises(loading.UnusableModelError, match="no extent"):
        poses.upright(parts(text + b"f 1 1 1\n"), UPRIGHT, (1, 1, 1))
