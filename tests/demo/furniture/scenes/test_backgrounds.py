import numpy as np
import pytest

from mixer_jax.demo.furniture.scenes import backgrounds


def draw(seed, size=32):
    return backgrounds.draw(np.random.default_rng(seed), size)


def test_backgrounds_differ_and_are_reproducible():
    drawn = [draw(seed) for seed in range(12)]
    for picture in drawn:
        assert picture.shape == (32, 32, 3)
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert picture.std() > 0.005
    np.testing.assert_array_equal(drawn[0], draw(0))
    means = {picture.mean().round(6) for picture in drawn}
    assert len(means) == len(drawn)


@pytest.mark.parametrize("kind", ["_studio", "_room", "_surface"])
def test_every_kind_is_the_same_scene_at_any_size(kind):
    scene = getattr(backgrounds, kind)
    small, large = (scene(np.random.default_rng(5), size) for size in (32, 64))
    halved = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(halved - small).mean() < 0.1
