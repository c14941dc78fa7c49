import numpy as np
import pytest

from mixer_jax.demo.furniture import shots
from mixer_jax.demo.furniture.catalog import Product


def product(key="shop/bed", size=(100, 100, 100)):
    return Product(key, "", "", "", None, "", "", (), size)


def test_first_five_views_have_all_kinds():
    kinds = [shots.kind(k) for k in range(5)]
    assert kinds == ["plain", "hidden", "mosaic", "plain", "mosaic"]
    assert [shots.kind(k) for k in range(5, 10)] == kinds


def test_shot_depends_on_product_and_number_only():
    assert shots.draw(product(), 1) == shots.draw(product(), 1)
    others = [
        shots.draw(product(), 2),
        shots.draw(product("shop/bed2"), 1),
    ]
    assert shots.draw(product(), 1) not in others
    first = shots.generator("compose", "shop/bed", 1).random()
    assert first != shots.generator("shot", "shop/bed", 1).random()


@pytest.mark.parametrize(
    ("size", "turn", "rise"),
    [
        ((100, 100, 100), 75, (5, 40)),
        ((100, 5, 100), 75, (35, 70)),  # a carpet
        ((100, 200, 5), 50, (5, 40)),  # a door
    ],
)
def test_camera_is_where_the_product_can_be_seen(size, turn, rise):
    drawn = [shots.draw(product(size=size), k) for k in range(200)]
    azimuth = np.array([shot.azimuth for shot in drawn])
    elevation = np.array([shot.elevation for shot in drawn])
    assert 0.9 * turn < np.abs(azimuth).max() <= turn
    assert rise[0] <= elevation.min() < elevation.max() <= rise[1]
    light = np.array([shot.light_azimuth for shot in drawn]) - azimuth
    assert np.abs(light).max() <= 70
    assert all(max(shot.light) == 1 for shot in drawn)
