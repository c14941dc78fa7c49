"""Outputs of several blocks at the cells of the last one."""

import jax
import numpy as np

from mixer_jax.models.encoders.efficientnet import (
    EfficientNet,
    EfficientNetConfig,
    EfficientNetLite0,
)
from mixer_jax.models.encoders.hypercolumns import hypercolumns
from mixer_jax.models.weights import pretrained


def make_maps(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(3, *one)).astype(np.float32) for one in shapes]


def test_maps_are_averaged_over_cells_and_scaled():
    early, late = make_maps((8, 4, 5), (4, 2, 2))
    columns = np.asarray(hypercolumns([early, late]))
    assert columns.shape == (3, 8, 7)
    cells = early.reshape(3, 4, 2, 2, 2, 5).mean((2, 4)).reshape(3, 8, 5)
    for found, expected in (
        (columns[..., :5], cells),
        (columns[..., 5:], late.reshape(3, 8, 2)),
    ):
        norm = np.linalg.norm(expected.mean(1), axis=1)
        np.testing.assert_allclose(
            found, expected / norm[:, None, None], rtol=1e-4, atol=1e-5
        )


def test_cells_at_the_border_average_what_they_cover():
    early, late = make_maps((7, 7, 1), (4, 4, 1))
    columns = np.asarray(hypercolumns([early, late]))[..., 0]
    corner = early[:, 6, 6, 0] / early[:, :2, :2, 0].mean((1, 2))
    np.testing.assert_allclose(
        columns[:, 15] / columns[:, 0], corner, rtol=1e-4
    )


def test_blank_maps_stay_finite():
    shapes = (2, 2, 2, 3), (2, 1, 1, 2)
    columns = hypercolumns([np.zeros(one, np.float32) for one in shapes])
    np.testing.assert_array_equal(columns, np.zeros((2, 1, 5)))


def test_an_encoder_returns_the_outputs_of_all_blocks():
    config = EfficientNetConfig(width=0.25, depth=0.3)
    model = EfficientNet(config, batch_norm="frozen", hypercolumns=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert "head" not in variables["params"]
    patches = jax.jit(model.apply)(variables, images)
    channels = [
        one for repeats, *_, one in config.stages() for _ in range(repeats)
    ]
    assert patches.shape == (2, 4, sum(channels))
    mean, start = np.asarray(patches).mean(1), 0
    for one in channels:
        norms = np.linalg.norm(mean[:, start : start + one], axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-4)
        start += one
    # Images are encoded independently.
    alone = jax.jit(model.apply)(variables, images[1:])
    np.testing.assert_allclose(alone[0], patches[1], rtol=1e-4, atol=1e-5)


def test_published_weights_fit_with_and_without_a_head():
    images = np.zeros((1, 32, 32, 3), np.uint8)
    loaded = []
    for use in (True, False):
        model = EfficientNetLite0(hypercolumns=use)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        loaded.append(pretrained.load("efficientnet-lite0", shapes))
    columns, whole = loaded
    for collection, tree in columns.items():
        rest = {k: v for k, v in whole[collection].items() if k != "head"}
        jax.tree.map(np.testing.assert_array_equal, tree, rest)
