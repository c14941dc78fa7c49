import numpy as np
import pytest

from mixer_jax.demo.furniture.scenes import textures

KINDS = [
    textures.plain,
    textures.blotches,
    textures.planks,
    textures.tiles,
    textures.bricks,
    textures.stripes,
]


def plane(low=-3.0, high=20.0, side=40):
    line = np.linspace(low, high, side, dtype=np.float32)
    return np.meshgrid(line, line)


@pytest.mark.parametrize("kind", KINDS)
def test_texture_is_a_function_of_the_coordinates(kind):
    u, v = plane()
    colors = kind(np.random.default_rng(1))(u, v)
    assert colors.shape == (40, 40, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert colors.std() > 1e-3
    again = kind(np.random.default_rng(1))(u[3:9, 5:7], v[3:9, 5:7])
    np.testing.assert_array_equal(again, colors[3:9, 5:7])


def test_texture_is_drawn_at_random():
    u, v = plane()
    means = {
        float(textures.draw(np.random.default_rng(k))(u, v).mean())
        for k in range(20)
    }
    assert len(means) == 20


def test_tiles_have_joints():
    rng = np.random.default_rng(3)
    u = np.array([[0.02, 0.5, 1.02, 1.5]])
    colors = textures.tiles(rng)(u, np.full_like(u, 0.5))
    np.testing.assert_array_equal(colors[0, 0], colors[0, 2])
    assert np.unique(colors[0, 0]).size == 1
    assert not np.array_equal(colors[0, 0], colors[0, 1])
