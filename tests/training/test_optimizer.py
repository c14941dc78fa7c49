"""The schedule, the learning rate of each part, and gradient clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_jax.models import factory
from mixer_jax.runtime.errors import UserError
from mixer_jax.training import optimizer as optimizer_lib
from mixer_jax.training.config import defaults as config_lib


def params():
    return {
        "image_encoder": {"conv": {"kernel": jnp.ones((2, 3))}},
        "text_encoder": {"layer": {"bias": jnp.ones((3,))}},
        "fusion": {"query": {"kernel": jnp.full((3, 3), 2.0)}},
    }


def test_schedule_warms_up_then_decays_and_stays_positive():
    schedule = optimizer_lib.make_schedule(steps=100, warmup=0.1)
    shape = np.asarray([schedule(jnp.int32(step)) for step in range(100)])
    assert shape.dtype == np.float32
    np.testing.assert_allclose(shape[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert np.all(np.diff(shape[10:]) < 0)
    assert 0 < shape[-1] < 0.01
    assert shape.max() == 1.0


def test_schedule_without_warmup_starts_at_the_peak():
    schedule = optimizer_lib.make_schedule(steps=3, warmup=0.0)
    assert schedule(jnp.int32(0)) == 1.0


def test_first_matching_pattern_applies():
    rates = optimizer_lib.multiples(
        params(), (("conv", 0.5), ("encoder", 0.0), ("bias$", 3.0))
    )
    assert rates == {
        "image_encoder/conv/kernel": 0.5,
        "text_encoder/layer/bias": 0.0,
        "fusion/query/kernel": 1.0,
    }


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("image_encodr", "image_encoder, text_enc"), ("(", "not a regular expr")],
)
def test_invalid_pattern_raises_an_error(pattern, message):
    with pytest.raises(UserError, match=message):
        optimizer_lib.multiples(params(), ((pattern, 0.1),))


@pytest.mark.parametrize(
    ("encoder", "above"),
    [
        ("vit-s", {"norm": 0, "layer11": 1, "layer0": 12, "cls": 13}),
        ("resnet18", {"stage3_block1": 1, "stage0_block0": 8, "stem": 9}),
        ("efficientnet-lite0", {"head": 0, "block15": 1, "block0": 16}),
        (
            "swin-t",
            {"stage3_block0": 2, "stage2_merge": 3, "stage2_block5": 4},
        ),
    ],
)
def test_lower_layers_have_smaller_rates(encoder, above):
    module = factory.make_encoder("image_encoder", encoder)
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    tree = {"image_encoder": shapes, "fusion": params()["fusion"]}
    rates = optimizer_lib.multiples(tree, (("image_encoder", 0.5),), 0.8)
    assert rates["fusion/query/kernel"] == 1
    for layer, count in above.items():
        paths = [p for p in rates if f"image_encoder/{layer}" in p]
        assert paths
        for path in paths:
            if path.split("/")[1] == layer:
                assert rates[path] == pytest.approx(0.5 * 0.8**count)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_invalid_layer_decay_raises_an_error(decay):
    with pytest.raises(UserError, match="layer_decay"):
        optimizer_lib.multiples(params(), (), decay)


def test_merge_inverts_split():
    rates = optimizer_lib.multiples(params(), (("encoder", 0.0),))
    trainable, frozen = optimizer_lib.split(params(), rates)
    assert set(trainable) == {"fusion"}
    assert set(frozen) == {"image_encoder", "text_encoder"}
    jax.tree.map(
        np.testing.assert_array_equal,
        optimizer_lib.merge(trainable, frozen),
        params(),
    )


def test_frozen_parts_have_no_optimizer_state():
    rates = optimizer_lib.multiples(params(), (("encoder", 0.0),))
    optimizer = optimizer_lib.make_optimizer(
        config_lib.defaults().optimizer, rates
    )
    trainable, _ = optimizer_lib.split(params(), rates)
    state = optimizer.init(trainable)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state))
    assert shapes == [(), (3, 3), (3, 3)]  # a count and two moments


def test_updates_match_scaled_adamw():
    config = config_lib.defaults().optimizer
    config.clip_norm = 1e9
    rates = optimizer_lib.multiples(
        params(), (("image_encoder", 0.1), ("text_encoder", 4.0))
    )
    optimizer = optimizer_lib.make_optimizer(config, rates)
    gradient = jax.tree.map(lambda x: 0.3 * x, params())
    got, _ = optimizer.update(gradient, optimizer.init(params()), params())
    reference = optax.adamw(
        1.0,
        weight_decay=config.weight_decay,
        mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
    )
    want, _ = reference.update(gradient, reference.init(params()), params())
    for part, multiple in (
        ("image_encoder", 0.1),
        ("text_encoder", 4.0),
        ("fusion", 1.0),
    ):
        jax.tree.map(
            lambda g, w, m=multiple: np.testing.assert_allclose(
                g, -m * w, rtol=1e-6
            ),
            got[part],
            want[part],
        )


def test_gradients_are_clipped_by_global_norm():
    config = config_lib.defaults().optimizer
    rates = optimizer_lib.multiples(params(), ())
    optimizer = optimizer_lib.make_optimizer(config, rates)
    gradient = jax.tree.map(lambda x: 1e6 * x, params())
    _, state = optimizer.update(gradient, optimizer.init(params()), params())
    first_moment = optax.tree.get(state, "mu")
    np.testing.assert_allclose(
        optax.tree.norm(first_moment), 0.1 * config.clip_norm, rtol=1e-5
    )
