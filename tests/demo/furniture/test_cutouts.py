import numpy as np
import pytest
from PIL import Image

from mixer_jax.demo.furniture import catalog, cutouts
from mixer_jax.demo.furniture.models import loading, rendering

SIZE = 64


@pytest.fixture
def tasks(tmp_path, furniture_package):
    """Two products with two views each."""
    path = furniture_package / "usr/share/First.sh3f"
    return [
        cutouts.Task(
            product,
            {k: tmp_path / f"cutouts/{product.key}-{k}.png" for k in range(2)},
            SIZE,
        )
        for product in catalog.read(path).products[:2]
    ]


def render(tasks):
    return list(cutouts.render(tasks))


def test_cutouts_are_trimmed_and_scaled(tasks, fake_renderer):
    assert render(tasks) == 2 * [cutouts.Result((0, 1))]
    for task in tasks:
        for path in task.views.values():
            cutout = cutouts.load(path)
            assert max(cutout.shape[:2]) == SIZE
            assert cutout.shape[2] == 4
            assert (cutout[..., 3] == 255).all()
    shapes = {cutouts.load(task.views[0]).shape for task in tasks}
    assert len(shapes) == 2  # each product has its own shot


def test_intact_cutouts_are_kept(tasks, fake_renderer, monkeypatch):
    render(tasks)
    damaged = tasks[1].views[1]
    damaged.write_bytes(damaged.read_bytes()[:-40])
    before = {p: p.stat().st_mtime_ns for t in tasks for p in t.views.values()}
    assert render(tasks) == 2 * [cutouts.Result((0, 1))]
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if before[path] != after[path]} == {damaged}
    # Nothing is loaded if all cutouts exist.
    monkeypatch.setattr(rendering, "Scene", None)
    assert render(tasks) == 2 * [cutouts.Result((0, 1))]


def test_blank_views_are_reported(tasks, fake_renderer, monkeypatch):
    shown = rendering.Scene.render

    def render_some(self, shot):
        picture = shown(self, shot)
        if shot == cutouts.shots.draw(tasks[0].product, 1):
            picture[..., 3] = 0
            picture[0, :3, 3] = 255  # a speck
        return picture

    monkeypatch.setattr(rendering.Scene, "render", render_some)
    assert render(tasks) == [
        cutouts.Result((0,), blank=(1,)),
        cutouts.Result((0, 1)),
    ]
    assert not tasks[0].views[1].exists()


def test_unusable_model_is_reported(tasks, fake_renderer, monkeypatch):
    load = loading.load

    def refuse(product):
        if product == tasks[0].product:
            raise loading.UnusableModelError("no parts")
        return load(product)

    monkeypatch.setattr(loading, "load", refuse)
    assert render(tasks) == [
        cutouts.Result((), fault="no parts"),
        cutouts.Result((0, 1)),
    ]


def test_colors_of_scaled_edges_are_unchanged(tmp_path):
    """Transparent pixels are black, and must not darken the edge."""
    picture = np.zeros((90, 90, 4), np.uint8)
    picture[20:71, 20:71] = (200, 100, 50, 255)
    picture[20:71:2, 20:71:2] = 0
    cutouts._save(cutouts._trimmed(picture), tmp_path / "a.png", 20)
    cutout = cutouts.load(tmp_path / "a.png")
    seen = cutout[cutout[..., 3] > 40].astype(int)
    assert np.abs(seen[:, :3] - (200, 100, 50)).max() < 12


def test_checksum_covers_the_files_of_one_model(tasks):
    product = tasks[0].product
    sums = catalog.checksums(product.archive)
    first = cutouts.checksum(product, sums)
    for name in (product.model, product.model.replace(".obj", ".mtl")):
        assert cutouts.checksum(product, sums | {name: 1}) != first
    other = tasks[1].product
    others = {other.model: 1, product.picture: 1, "First/alpine12/a.obj": 1}
    assert cutouts.checksum(product, sums | others) == first
    assert cutouts.checksum(other, sums) != first


def test_damaged_picture_is_not_kept(tmp_path):
    path = tmp_path / "a.png"
    assert not cutouts.is_kept(path)
    Image.new("RGB", (9, 9)).save(path)
    assert cutouts.is_kept(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert not cutouts.is_kept(path)
