import jax
import pytest

from mixer_jax.proxies import heads
from mixer_jax.proxies.heads import exact, knn
from mixer_jax.runtime import mesh as meshes
from mixer_jax.runtime.errors import UserError
from mixer_jax.training.config import defaults as configs


def make(num_categories=40, batch_size=8, **changes):
    config = configs.defaults().head
    config.update(changes)
    mesh = meshes.make_mesh(jax.devices()[:2])
    return heads.make_head(config, mesh, num_categories, batch_size)


def test_names_and_settings_reach_the_head():
    head = make(name="exact", scale=16.0, chunk=7)
    assert isinstance(head, exact.Exact)
    assert (head.loss.scale, head.loss.chunk) == (16.0, 7)
    head = make(name="knn", active=0.5, uniform=0.2, neighbors=64)
    assert isinstance(head, knn.Knn)
    # 20 rows per device; no category has more than 39 others.
    assert (head.active, head.uniform, head.neighbors) == (10, 2, 39)


@pytest.mark.parametrize("name", sorted(heads.HEADS))
def test_heads_are_hashable(name):
    head = make(name=name, active=0.5)
    assert len({head, head}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "dense"}, "'dense'; it must be one of exact, knn"),
        ({"margin": "sphere"}, "'sphere'; it must be one of arcface"),
        (
            {"margin": "arcface", "margin_size": -0.1},
            r"config.head.margin_size is -0.1; it must be in \[0, pi\)",
        ),
        ({"scale": 0.0}, "config.head.scale is 0.0; it must be above 0"),
        ({"chunk": 0}, "config.head.chunk is 0"),
        ({"name": "knn", "active": 1.5}, r"config.head.active is 1.5"),
        ({"name": "knn", "uniform": -0.1}, r"in \[0, 1\]"),
        ({"name": "knn", "neighbors": 0}, "config.head.neighbors is 0"),
        ({"num_categories": 1}, "at least 2"),
    ],
)
def test_invalid_settings_raise_an_error(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)
