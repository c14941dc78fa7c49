import numpy as np
import pytest

from mixer_jax.demo.furniture import shots
from mixer_jax.demo.furniture.scenes import backgrounds, composing

RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)


def cutout(color, height=40, width=30):
    picture = np.zeros((height, width, 4), np.uint8)
    picture[:] = color
    return picture


@pytest.fixture
def compose(monkeypatch, plain_backgrounds):
    """Composes on gray, with an ideal camera, to tell the products apart."""
    monkeypatch.setattr(
        composing,
        "_photograph",
        lambda picture, rng: (picture * 255 + 0.5).astype(np.uint8),
    )

    def compose(kind, seed, product=None, size=64):
        rng = np.random.default_rng(seed)
        product = cutout(RED) if product is None else product
        return composing.compose(kind, product, cutout(BLUE), rng, size)

    return compose


def share(picture, color):
    """Returns the share of pixels that have a color."""
    return (picture == color[:3]).all(-1).mean()


def test_plain_picture_shows_the_whole_product(compose):
    for seed in range(20):
        picture = compose(shots.PLAIN, seed)
        rows, columns = np.nonzero((picture == RED[:3]).all(-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 0.6 * 64 <= height <= 0.92 * 64
        assert abs(width / height - 3 / 4) < 0.1
        assert share(picture, BLUE) == 0


def test_hidden_picture_hides_a_part_of_the_product(compose):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        picture = np.full((64, 64, 3), 0.5, np.float32)
        box = composing._Box(0, 0, 64, 64)
        fill = rng.uniform(*composing._FILL)
        composing._place(picture, cutout(RED), box, fill, rng)
        whole = (picture == (1, 0, 0)).all(-1)
        hidden = compose(shots.HIDDEN, seed)[whole]
        covered = 1 - share(hidden, RED)
        assert 0.12 < covered < 0.5


def test_mosaic_shows_a_smaller_product_beside(compose):
    sides = set()
    for seed in range(30):
        picture = compose(shots.MOSAIC, seed)
        red, blue = share(picture, RED), share(picture, BLUE)
        assert red > 1.3 * blue > 0.01
        middles = [
            np.argwhere((picture == color[:3]).all(-1)).mean(0)
            for color in (RED, BLUE)
        ]
        sides.add(tuple(np.sign((middles[0] - middles[1]) / 12).astype(int)))
    assert len(sides) >= 4  # left, right, above and below


def test_mosaic_has_one_or_two_backgrounds(compose, monkeypatch):
    drawn, counts = [], set()

    def draw(rng, size):
        drawn.append(size)
        return np.full((size, size, 3), 0.1 * len(drawn), np.float32)

    monkeypatch.setattr(backgrounds, "draw", draw)
    for seed in range(20):
        drawn.clear()
        compose(shots.MOSAIC, seed)
        counts.add(len(drawn))
    assert counts == {1, 2}


def test_transparent_parts_show_the_background(compose):
    glass = cutout((255, 0, 0, 128))
    picture = compose(shots.PLAIN, 0, glass)
    shown = picture[..., 0] > picture[..., 2] + 40
    assert shown.mean() > 0.2
    assert share(picture, RED) == 0


def test_very_thin_product_can_be_composed(compose):
    for kind in shots.KINDS:
        for shape in ((1, 60), (60, 1)):
            picture = compose(kind, 1, cutout(RED, *shape))
            assert picture.shape == (64, 64, 3)


def test_picture_depends_on_the_seed_only():
    first, again, other = (
        composing.compose(
            shots.MOSAIC,
            cutout(RED),
            cutout(BLUE),
            np.random.default_rng(seed),
            48,
        )
        for seed in (1, 1, 2)
    )
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
